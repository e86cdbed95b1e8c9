"""Search spaces, without the searcher: what `suggest` asks of a trial, and other things that can answer.

`Suggester` is the part of `optuna.Trial` that a define-by-run `suggest` needs, so that the same function
describes the space, checks a hand-written point of it, and draws from it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Protocol

from study.errors import UsageError

__all__ = ["Domain", "Given", "Scalar", "Suggester", "check_point", "describe", "walk"]

Scalar = None | bool | int | float | str


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
        value = self.values.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            self.values = {**self.values, name: float(value)}
        return self._answer(Domain(name, None, float(low), float(high), step, log))

    def _answer(self, domain: Domain) -> Any:
        self.asked[domain.name] = domain
        if domain.name not in self.values:
            raise UsageError(f"parameter {domain.name!r} is missing; allowed: {domain}")
        value = self.values[domain.name]
        if value not in domain:
            raise UsageError(f"parameter {domain.name!r} is {value!r}; allowed: {domain}")
        return value


class _Corner(Given):
    """Answers with the given value, else with the first choice or the low end."""

    def _answer(self, domain: Domain) -> Any:
        self.asked[domain.name] = domain
        first = domain.choices[0] if domain.choices is not None else domain.low
        return self.values.get(domain.name, first)


def check_point(suggest: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that `suggest` really asks for at the point `values`.

    Args:
        suggest: a define-by-run function of a `Suggester`.
        values: parameter name to value.

    Raises:
        UsageError: a value is missing, outside its domain, or names nothing that is asked for.
    """
    given = Given(dict(values))
    suggest(given)
    unknown = sorted(set(values) - set(given.asked))
    if unknown:
        close = get_close_matches(unknown[0], given.asked, n=3) or sorted(given.asked)
        raise UsageError(
            f"parameter {unknown[0]!r} is not asked for at this point of the space; near it: {', '.join(close)}"
        )
    return {name: given.values[name] for name in given.asked}


def walk(suggest: Any) -> Iterator[tuple[dict[str, Scalar], Domain]]:
    """Visit every domain of a conditional space once per categorical condition it depends on.

    Each categorical is switched through its choices while the others stay at their first choice, to any
    depth, so nested conditions are found without multiplying out the whole space.

    Yields:
        (condition, domain): the choices under which the domain appears beyond the unconditional ones.
    """
    seen: set[tuple[str, str]] = set()
    pending: list[dict[str, Scalar]] = [{}]
    while pending:
        condition = pending.pop(0)
        corner = _Corner(dict(condition))
        suggest(corner)
        for domain in corner.asked.values():
            if (domain.name, str(domain)) in seen:
                continue
            seen.add((domain.name, str(domain)))
            yield condition, domain
            pending += [condition | {domain.name: c} for c in (domain.choices or ())[1:]]


def describe(suggest: Any) -> list[dict[str, Any]]:
    """Return the space as rows `name`, `values`, `when`, for a table or a tree."""
    return [
        {"name": d.name, "values": str(d), "when": ", ".join(f"{k}={v}" for k, v in when.items())}
        for when, d in walk(suggest)
    ]
