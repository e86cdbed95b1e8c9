"""Search spaces, without the searcher: what `suggest` asks of a trial, and other things that can answer.

`Suggester` is the part of `optuna.Trial` that a define-by-run `suggest` needs, so that the same function
describes the space, checks a hand-written point of it, and draws from it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import combinations
from typing import Any, Protocol

from study.errors import UsageError

__all__ = [
    "Condition",
    "Domain",
    "Given",
    "Scalar",
    "Suggester",
    "condition_text",
    "describe",
    "fill_point",
    "walk",
]

Scalar = None | bool | int | float | str

# Integers of so few values are switched through when a space is walked: `for i in range(layers)`.
_FEW = 16


class Suggester(Protocol):
    """What a define-by-run `suggest` may ask for; `optuna.Trial` is one."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of `choices`."""

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """Return an integer in [low, high]."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Return a float in [low, high]."""


@dataclass(frozen=True)
class Domain:
    """The values one parameter may take: `choices`, or the range from `low` to `high`."""

    name: str
    choices: tuple[Scalar, ...] | None = None
    low: float | int = 0
    high: float | int = 0
    step: float | int | None = None
    log: bool = False

    def __contains__(self, value: object) -> bool:
        if self.choices is not None:
            return any(value == choice and type(value) is type(choice) for choice in self.choices)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if isinstance(self.low, int) and not isinstance(value, int):
            return False
        on_grid = self.step is None or abs((value - self.low) / self.step % 1.0 - 0.5) > 0.5 - 1e-9
        return self.low <= value <= self.high and on_grid

    def member(self, value: Any) -> Any:
        """Return the value of this domain that `value` stands for, or `value` itself if there is none.

        On a command line 8 may mean 8.0, and none the text "none" as well as no value.
        """
        if isinstance(self.low, float) and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if self.choices is None or value in self:
            return value
        alike = [c for c in self.choices if str(c).lower() == str(value).lower()]
        return alike[0] if len(alike) == 1 else value

    def refusal(self, value: object) -> UsageError:
        """Return the error that says that `value` is not allowed, and what is."""
        return UsageError(f"parameter {self.name!r} is {value!r}; allowed: {self}")

    def __str__(self) -> str:
        if self.choices is not None:
            return " | ".join(map(str, self.choices))
        step = "" if self.step in (None, 1) else f" step {self.step}"
        return f"{self.low} .. {self.high}{step}{' log' if self.log else ''}"


@dataclass
class Given:
    """A suggester that answers from `values` and remembers which domains were asked for.

    Raises:
        UsageError: on a parameter that `values` lacks or that lies outside its domain.
    """

    values: Mapping[str, Any]
    asked: dict[str, Domain] = field(default_factory=dict)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return the given value if it is one of `choices`."""
        return self._answer(Domain(name, choices=tuple(choices)))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> Any:
        """Return the given integer if it lies in [low, high]."""
        return self._answer(Domain(name, None, low, high, step, log))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> Any:
        """Return the given float if it lies in [low, high]."""
        return self._answer(Domain(name, None, float(low), float(high), step, log))

    def _answer(self, domain: Domain) -> Any:
        self.asked[domain.name] = domain
        if domain.name not in self.values:
            raise UsageError(f"parameter {domain.name!r} is missing; allowed: {domain}")
        value = domain.member(self.values[domain.name])
        if value not in domain:
            raise domain.refusal(value)
        self.values = {**self.values, domain.name: value}
        return value


class _Corner(Given):
    """Answers with the given value where it is allowed, else with the first choice or the low end."""

    def _answer(self, domain: Domain) -> Any:
        self.asked[domain.name] = domain
        first = domain.choices[0] if domain.choices is not None else domain.low
        value = domain.member(self.values.get(domain.name, first))
        return value if value in domain else first


def fill_point(
    suggest: Any, values: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return `values`, and those of `defaults` that go with them.

    A parameter that neither gives, because only other choices ask for it, is left out; so is a default
    outside its domain.

    Args:
        suggest: a define-by-run function of a `Suggester`.
        values: parameter name to value: what must be.
        defaults: parameter name to value: what may be.

    Raises:
        UsageError: one of `values` is outside its domain, or names nothing that is asked for.
    """
    corner = _Corner({**defaults, **values})
    suggest(corner)
    _check_names(values, corner.asked)
    point = {n: d.member(corner.values[n]) for n, d in corner.asked.items() if n in corner.values}
    for name in values:
        if point[name] not in corner.asked[name]:
            raise corner.asked[name].refusal(point[name])
    return {name: value for name, value in point.items() if value in corner.asked[name]}


def _check_names(values: Mapping[str, Any], asked: Mapping[str, Domain]) -> None:
    unknown = sorted(set(values) - set(asked))
    if unknown:
        close = get_close_matches(unknown[0], asked, n=3) or sorted(asked)
        raise UsageError(
            f"parameter {unknown[0]!r} is not asked for at this point of the space; near it: {', '.join(close)}"
        )


Condition = dict[str, tuple[Scalar, ...]]
# What was asked for after one parameter was switched to each of its values.
_Runs = list[tuple[Scalar, dict[str, Domain]]]


def walk(suggest: Any) -> Iterator[tuple[Condition, Domain]]:
    """Visit every domain of a conditional space once, with the choices under which it exists.

    A domain's condition is found by switching, one at a time, every parameter asked for before it through
    its choices (or a short range of integers), so it is exact for domains that need this *and* that.
    Domains are looked for the same way, and by switching two parameters at once from the first choices.

    Args:
        suggest: a define-by-run function of a `Suggester`; called many times.

    Yields:
        (condition, domain): the condition maps a parameter's name to those of its values under which the
        domain exists; it is empty for a domain that always exists.
    """
    start = _ask(suggest, {})
    seen: set[str] = set()
    pending = [{}, *_pairs(start)]
    while pending:
        point = pending.pop(0)
        asked = _ask(suggest, point) if point else start
        new = [domain for domain in asked.values() if repr(domain) not in seen]
        if not new:
            continue
        seen.update(map(repr, new))
        switched = {d.name: _switched(suggest, point, d) for d in asked.values()}
        pending += [point | {name: value} for name, runs in switched.items() for value, _ in runs]
        for domain in new:
            yield _condition(domain, asked, switched), domain


def condition_text(condition: Condition) -> str:
    """Return a condition for people: `loss.name=margin, arch.name=resnet|unet`; empty when there is none."""
    return ", ".join(f"{name}={'|'.join(map(str, held))}" for name, held in condition.items())


def describe(suggest: Any) -> list[dict[str, Any]]:
    """Return the space as rows `name`, `values`, `when`, for a table or a program."""
    return [
        {"name": d.name, "values": str(d), "when": condition_text(when)}
        for when, d in walk(suggest)
    ]


def _ask(suggest: Any, point: Mapping[str, Scalar]) -> dict[str, Domain]:
    corner = _Corner(dict(point))
    try:
        suggest(corner)
    except Exception:
        # A space may refuse a combination by raising; what was asked for until then still counts.
        if not point:
            raise
    return corner.asked


def _values(domain: Domain) -> Sequence[Scalar]:
    """The values that other parameters may depend on: choices, and integers such as a number of layers."""
    if domain.choices is not None:
        return domain.choices
    if not isinstance(domain.low, int):
        return ()
    values = range(domain.low, int(domain.high) + 1, int(domain.step or 1))
    return values if len(values) <= _FEW else ()


def _pairs(asked: Mapping[str, Domain]) -> list[dict[str, Scalar]]:
    choices = [d for d in asked.values() if d.choices is not None]
    return [
        {one.name: a, other.name: b}
        for one, other in combinations(choices, 2)
        for a in _values(one)[1:]
        for b in _values(other)[1:]
    ]


def _switched(suggest: Any, point: dict[str, Scalar], domain: Domain) -> _Runs:
    return [(value, _ask(suggest, point | {domain.name: value})) for value in _values(domain)]


def _condition(
    domain: Domain, asked: Mapping[str, Domain], switched: Mapping[str, _Runs]
) -> Condition:
    names = list(asked)
    found: Condition = {}
    for name in names[: names.index(domain.name)]:
        runs = switched[name]
        held = tuple(value for value, there in runs if there.get(domain.name) == domain)
        if len(held) < len(runs):
            found[name] = held
    return found
