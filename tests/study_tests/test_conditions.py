from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from study.conditions import Conditions, agree, parse_name, parse_scalar
from study.errors import UsageError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("3.0", 3.0),
        ("1e-3", 0.001),
        ("inf", float("inf")),
        ("true", True),
        ("False", False),
        ("NONE", None),
        ("", ""),
        ("resnet", "resnet"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_scalars_keep_their_kind(text: str, value: object) -> None:
    found = parse_scalar(text)
    assert (found, type(found)) == (value, type(value))


@given(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False))
def test_a_printed_scalar_is_read_back(value: Any) -> None:
    found = parse_scalar(str(value))
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ("tpe", "tpe", {}),
        ("tpe:", "tpe", {}),
        ("tpe:n=10", "tpe", {"n": 10}),
        ("tpe: n = 10 , multivariate = false,", "tpe", {"n": 10, "multivariate": False}),
        ("a:b=c=d", "a", {"b": "c=d"}),
        ("a:b=", "a", {"b": ""}),
    ],
)
def test_names_with_arguments(text: str, name: str, arguments: dict[str, Any]) -> None:
    assert parse_name(text, "sampler") == (name, arguments)


def test_an_argument_without_a_value_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        parse_name("tpe:n=1,group", "sampler")
    assert (
        str(caught.value)
        == "sampler 'tpe:n=1,group': 'group' is not key=value; expected name:key=value,..."
    )


@pytest.mark.parametrize(
    "wanted", [{}, {"sampler": None, "seed": None}, {"sampler": "random", "seed": 3}]
)
def test_a_worker_that_wants_what_the_study_has_agrees(wanted: dict[str, Any]) -> None:
    agree(Conditions(sampler="random", seed=3), wanted, "s")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            {"sampler": "tpe"},
            "study 's' was created with sampler 'random', not 'tpe'; leave --sampler out, or create another study",
        ),
        (
            {"sampler": None, "seed": 0},
            "study 's' was created with seed 3, not 0; leave --seed out, or create another study",
        ),
    ],
)
def test_a_worker_that_wants_something_else_is_refused(
    wanted: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        agree(Conditions(sampler="random", seed=3), wanted, "s")
    assert str(caught.value) == message


@pytest.mark.parametrize("seed", [-1, 2**31, 0.5])
def test_seeds_are_31_bits(seed: Any) -> None:
    with pytest.raises(ValidationError, match="seed"):
        Conditions(seed=seed)


@pytest.mark.parametrize("value", [None, True, False, 1, 0, 1.0, "1", "none"])
def test_fixed_values_keep_their_kind_through_json(value: Any) -> None:
    text = Conditions(fixed={"p": value}).model_dump_json()
    found = Conditions.model_validate_json(text).fixed["p"]
    assert (found, type(found)) == (value, type(value))


def test_conditions_are_frozen_and_ignore_what_others_keep() -> None:
    conditions = Conditions.model_validate({"seed": 1, "dashboard:note": "x"})
    with pytest.raises(ValidationError, match="frozen"):
        conditions.seed = 2  # type: ignore[misc]
