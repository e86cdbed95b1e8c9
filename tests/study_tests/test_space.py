import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.spec import suggest as suggest_attack
from study.errors import UsageError
from study.space import (
    Domain,
    Given,
    Suggester,
    condition_text,
    describe,
    fill_point,
    walk,
)

CHOICES = Domain("c", choices=("a", 1, True, None, 2.5))
INTEGERS = Domain("n", None, 2, 10, 4)
FLOATS = Domain("x", None, 0.0, 1.0, None, True)
GRID = Domain("g", None, 0.0, 1.0, 0.1)


@pytest.mark.parametrize(
    ("domain", "value", "member"),
    [
        (CHOICES, "a", True),
        (CHOICES, 1, True),
        (CHOICES, True, True),
        (CHOICES, None, True),
        (CHOICES, 1.0, False),
        (CHOICES, False, False),
        (CHOICES, "A", False),
        (INTEGERS, 2, True),
        (INTEGERS, 6, True),
        (INTEGERS, 10, True),
        (INTEGERS, 3, False),
        (INTEGERS, 14, False),
        (INTEGERS, -2, False),
        (INTEGERS, 6.0, False),
        (INTEGERS, True, False),
        (INTEGERS, "6", False),
        (FLOATS, 0.0, True),
        (FLOATS, 1.0, True),
        (FLOATS, 1, True),
        (FLOATS, 1.0000001, False),
        (FLOATS, float("nan"), False),
        (FLOATS, None, False),
        (GRID, 0.3, True),
        (GRID, 0.7, True),
        (GRID, 0.35, False),
    ],
)
def test_domain_membership(domain: Domain, value: object, member: bool) -> None:
    assert (value in domain) is member


@pytest.mark.parametrize(
    ("domain", "value", "stands_for"),
    [
        (Domain("c", choices=("none", "batch")), None, "none"),
        (Domain("c", choices=("1", "2")), 1, "1"),
        (Domain("c", choices=("true", "x")), True, "true"),
        (Domain("c", choices=(None, "x")), "None", None),
        (Domain("c", choices=("none", None)), None, None),
        (Domain("c", choices=("a", "A")), "a", "a"),
        (Domain("c", choices=("None", "none")), None, None),
        (Domain("c", choices=("a", "b")), "z", "z"),
        (FLOATS, 1, 1.0),
        (FLOATS, True, True),
        (INTEGERS, 6, 6),
        (INTEGERS, 6.0, 6.0),
    ],
)
def test_what_a_value_stands_for(domain: Domain, value: object, stands_for: object) -> None:
    found = domain.member(value)
    assert (found, type(found)) == (stands_for, type(stands_for))


@pytest.mark.parametrize(
    ("domain", "text"),
    [
        (CHOICES, "a | 1 | True | None | 2.5"),
        (INTEGERS, "2 .. 10 step 4"),
        (Domain("n", None, 1, 3, 1), "1 .. 3"),
        (FLOATS, "0.0 .. 1.0 log"),
        (GRID, "0.0 .. 1.0 step 0.1"),
    ],
)
def test_a_domain_reads_as_text(domain: Domain, text: str) -> None:
    assert str(domain) == text


def nested(trial: Suggester) -> None:
    """`c` appears for loss margin or hinge; `d` for optimizer sgd; `e` below `d`; `f` for a pair."""
    loss = trial.suggest_categorical("loss", ("margin", "hinge", "log"))
    optimizer = trial.suggest_categorical("optimizer", ("adam", "sgd"))
    if loss != "log":
        trial.suggest_float("c", 0, 1)
    if optimizer == "sgd" and trial.suggest_categorical("d", ("plain", "momentum")) == "momentum":
        trial.suggest_float("e", 0, 1)
    if loss == "log" and optimizer == "sgd":
        trial.suggest_int("f", 0, 100)


def layers(trial: Suggester) -> None:
    for k in range(trial.suggest_int("layers", 1, 3)):
        trial.suggest_int(f"units.{k}", 8, 512)


def ranged(trial: Suggester) -> None:
    """One name, another range under each choice."""
    wide = trial.suggest_categorical("size", ("small", "wide")) == "wide"
    trial.suggest_int("width", 8, 64 if wide else 16)


def paired(trial: Suggester) -> None:
    """Nothing changes until both are switched."""
    first = trial.suggest_categorical("first", ("a", "b"))
    if (first, trial.suggest_categorical("second", ("a", "b"))) == ("b", "b"):
        trial.suggest_float("x", 0, 1)


def shifting(trial: Suggester) -> None:
    """The choices of one parameter depend on another, so a choice may not be allowed elsewhere."""
    outer = trial.suggest_categorical("outer", ("a", "b"))
    inner = trial.suggest_categorical("inner", ("p", "q") if outer == "a" else ("r", "s"))
    if inner == "q":
        trial.suggest_float("y", 0, 1)


def scarce(trial: Suggester) -> None:
    """A combination is refused by raising."""
    first = trial.suggest_categorical("first", ("a", "b"))
    if (first, trial.suggest_categorical("second", ("a", "b"))) == ("b", "b"):
        raise ValueError("b, b")
    trial.suggest_float("x", 0, 1)


@pytest.mark.parametrize(
    ("space", "conditions"),
    [
        (
            nested,
            {
                "loss: margin | hinge | log": "",
                "optimizer: adam | sgd": "",
                "c: 0.0 .. 1.0": "loss=margin|hinge",
                "d: plain | momentum": "optimizer=sgd",
                "e: 0.0 .. 1.0": "optimizer=sgd, d=momentum",
                "f: 0 .. 100": "loss=log, optimizer=sgd",
            },
        ),
        (
            layers,
            {
                "layers: 1 .. 3": "",
                "units.0: 8 .. 512": "",
                "units.1: 8 .. 512": "layers=2|3",
                "units.2: 8 .. 512": "layers=3",
            },
        ),
        (
            ranged,
            {
                "size: small | wide": "",
                "width: 8 .. 16": "size=small",
                "width: 8 .. 64": "size=wide",
            },
        ),
        (scarce, {"first: a | b": "", "second: a | b": "", "x: 0.0 .. 1.0": ""}),
        (paired, {"first: a | b": "", "second: a | b": "", "x: 0.0 .. 1.0": "first=b, second=b"}),
        (
            shifting,
            {
                "outer: a | b": "",
                "inner: p | q": "outer=a",
                "inner: r | s": "outer=b",
                "y: 0.0 .. 1.0": "outer=a, inner=q",
            },
        ),
        (lambda trial: None, {}),
    ],
)
def test_every_domain_is_shown_with_its_condition(space: Any, conditions: dict[str, str]) -> None:
    rows = {f"{row['name']}: {row['values']}": row["when"] for row in describe(space)}
    assert rows == conditions


def test_the_attack_space_shows_what_depends_on_the_first_choice() -> None:
    when = {domain.name: condition for condition, domain in walk(suggest_attack)}
    assert when["loss.confidence"] == {"loss.name": ("margin",)}
    assert when["optimizer.lr"] == {}
    assert when["arch.blocks"] == {"arch.name": ("resnet",)}


def test_a_space_that_raises_at_once_says_so() -> None:
    def broken(trial: Suggester) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(walk(broken))


@pytest.mark.parametrize(
    ("condition", "text"),
    [({}, ""), ({"a": (1, 2), "b.c": (None,)}, "a=1|2, b.c=None")],
)
def test_condition_text(condition: Any, text: str) -> None:
    assert condition_text(condition) == text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "lgo"}, "parameter 'loss' is 'lgo'; allowed: margin | hinge | log"),
        (
            {"loss": "log", "optimizer": "adam", "c": 0.5},
            "parameter 'c' is not asked for at this point of the space; near it: loss, optimizer",
        ),
        (
            {"loss": "log", "optimizer": "adam", "optimiser": "sgd"},
            "parameter 'optimiser' is not asked for at this point of the space; near it: optimizer",
        ),
        (
            {"loss": "margin", "optimizer": "adam", "c": 2},
            r"parameter 'c' is 2.0; allowed: 0.0 .. 1.0",
        ),
    ],
)
def test_a_point_outside_the_space_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        fill_point(nested, values, {})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("values", "defaults", "point"),
    [
        ({}, {"loss": "log", "optimizer": "adam"}, {"loss": "log", "optimizer": "adam"}),
        ({"loss": "hinge"}, {"loss": "log", "c": 1}, {"loss": "hinge", "c": 1.0}),
        ({"loss": "log"}, {"c": 0.5}, {"loss": "log"}),
        ({"optimizer": "sgd"}, {"c": 7.0}, {"optimizer": "sgd"}),
    ],
)
def test_a_point_is_filled_with_the_defaults_that_go_with_it(
    values: dict[str, Any], defaults: dict[str, Any], point: dict[str, Any]
) -> None:
    assert fill_point(nested, values, defaults) == point


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"c": 3}, "parameter 'c' is 3.0; allowed: 0.0 .. 1.0"),
        (
            {"los": "log"},
            "parameter 'los' is not asked for at this point of the space; near it: loss",
        ),
    ],
)
def test_a_point_that_cannot_be_filled_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        fill_point(nested, values, {"loss": "margin"})
    assert str(caught.value) == message


class Drawn:
    """Draws at random and remembers."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.values: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.values.setdefault(name, self.rng.choice(choices))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> Any:
        return self.values.setdefault(name, self.rng.randrange(low, high + 1, step))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> Any:
        return self.values.setdefault(name, self.rng.uniform(low, high))


SPACES = [suggest_attack, nested, layers, ranged, paired, shifting]


@given(seed=st.integers(0, 2**32), space=st.sampled_from(SPACES))
@settings(max_examples=50, deadline=None)
def test_every_point_that_is_drawn_passes_the_check(seed: int, space: Any) -> None:
    drawn = Drawn(seed)
    space(drawn)
    assert fill_point(space, drawn.values, {}) == drawn.values


@given(seed=st.integers(0, 2**32), space=st.sampled_from(SPACES))
@settings(max_examples=50, deadline=None)
def test_what_is_asked_at_a_point_is_what_the_walk_says(seed: int, space: Any) -> None:
    drawn = Drawn(seed)
    space(drawn)
    point = Given(drawn.values)
    space(point)
    holding = {
        str((domain.name, str(domain)))
        for condition, domain in walk(space)
        if all(drawn.values.get(name) in held for name, held in condition.items())
    }
    assert holding == {str((d.name, str(d))) for d in point.asked.values()}


def test_what_a_point_lacks_is_named() -> None:
    with pytest.raises(
        UsageError, match=r"^parameter 'optimizer' is missing; allowed: adam \| sgd$"
    ):
        nested(Given({"loss": "log"}))
