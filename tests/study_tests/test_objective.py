from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from study.errors import UsageError
from study.objective import decode, digest, encode, explain, load_objective
from tests.study_tests.tiny import HERE, Tiny


def test_an_objective_is_built_with_its_settings() -> None:
    found = load_objective(f"{HERE}:Tiny", {"scale": 2.0})
    assert isinstance(found, Tiny)
    assert found.settings == {"scale": 2.0, "names": ()}
    assert (
        found.note == "A conditional space: `depth` exists only for kind b, `gain` only for kind a."
    )


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("NOT_A_CLASS", {}, "is 3, not a subclass of study.objective.Objective"),
        ("Mapping", {}, "not a subclass of study.objective.Objective"),
        ("Unfinished", {}, "does not define evaluate"),
        ("Objective", {}, "does not define evaluate and suggest"),
        ("Tiny", {"sacle": 1}, "refuses its settings: .*unexpected keyword argument 'sacle'"),
        ("Tiny", {"scale": 11}, "scale is 11; allowed: above 0, at most 10"),
        ("Validated", {"n": 3}, r"settings of .*: n is 3: input should be less than or equal to 2"),
        ("Bare", {"b": 1, "a": 1}, "Bare takes no settings, and was given a, b"),
    ],
)
def test_what_is_no_objective_is_refused(
    name: str, settings: Mapping[str, Any], message: str
) -> None:
    place = __name__ if name in ("Validated", "Bare") else HERE
    with pytest.raises(UsageError, match=message):
        load_objective(f"{place}:{name}", settings)


class _Limits(BaseModel):
    n: int = Field(ge=0, le=2)


class Validated(Tiny):
    def __init__(self, n: int = 0) -> None:
        super().__init__()
        self.limits = _Limits(n=n)


class Bare(Tiny):
    def __init__(self, **settings: Any) -> None:
        super(Tiny, self).__init__(**settings)


@dataclass(frozen=True)
class Spec:
    width: int
    rates: tuple[float, ...] = ()


class Typed(Tiny):
    spec_type = Spec


@pytest.mark.parametrize(
    ("objective", "spec"),
    [(Tiny(), {"kind": "a", "x": 0.1, "n": None}), (Typed(), Spec(3, (0.1, 1e-300)))],
)
def test_a_spec_survives_its_broadcast(objective: Any, spec: Any) -> None:
    text = encode(objective, spec)
    assert decode(objective, text) == spec
    assert len(digest(text)) == 64
    assert digest(text) != digest(text + b" ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"width": "wide"}', "spec: width is 'wide': input should be a valid integer"),
        (b'{"rates": []}', "spec: width is {'rates': \\[\\]}: field required"),
        (b"3", "spec: value is 3: input should be"),
        (b"{", "spec: value is .*: invalid JSON"),
    ],
)
def test_a_damaged_spec_is_one_sentence(text: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        decode(Typed(), text)
    assert "\n" not in str(caught.value)


def test_explain_names_the_nested_field() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(dict[str, list[int]]).validate_python({"a": [1, "x"]})
    assert explain(caught.value).startswith("a.1 is 'x': input should be a valid integer")
