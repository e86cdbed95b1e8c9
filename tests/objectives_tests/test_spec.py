"""The spec of an attack trial: JSON both ways, frozen, explained, and equal to its point of the space."""

import json
from functools import partial

import numpy as np
import pytest
from pydantic import ValidationError

from models.generators import GENERATORS
from models.hints import is_carried
from objectives.spec import AttackSpec, suggest
from study.errors import UsageError
from study.objective import explain
from study.space import Given, Suggester, fill_point, walk

TARGETS = ("vgg", "nets.py:Net@1", "plain")
draw = partial(suggest, targets=TARGETS)


class Random:
    """A suggester that draws evenly, as a random sampler does."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.drawn: dict[str, object] = {}

    def suggest_categorical(self, name, choices):
        return self._keep(name, choices[self.rng.integers(len(choices))])

    def suggest_int(self, name, low, high, *, step=1, log=False):
        return self._keep(name, int(low + step * self.rng.integers((high - low) // step + 1)))

    def suggest_float(self, name, low, high, *, step=None, log=False):
        ends = np.log([low, high]) if log else (low, high)
        value = self.rng.uniform(*ends)
        return self._keep(name, float(np.clip(np.exp(value) if log else value, low, high)))

    def _keep(self, name, value):
        self.drawn[name] = value
        return value


def drawn(seed: int) -> tuple[AttackSpec, dict[str, object]]:
    trial: Suggester = Random(seed)
    return draw(trial), trial.drawn


SPECS = [AttackSpec(), *(drawn(seed)[0] for seed in range(20))]


@pytest.mark.parametrize("seed", range(200))
def test_every_point_that_can_be_drawn_builds_its_spec(seed) -> None:
    spec, point = drawn(seed)
    assert {name: spec.parameters()[name] for name in point} == point
    assert fill_point(draw, point, {}) == point


def test_every_end_of_every_domain_builds_a_spec() -> None:
    seen = set()
    for condition, domain in walk(draw):
        ends = domain.choices if domain.choices is not None else (domain.low, domain.high)
        for value in ends:
            first = {name: held[0] for name, held in condition.items()}
            _, point = _corner({**first, domain.name: value})
            assert point[domain.name] == value
            seen.add(domain.name)
    assert {"arch.width", "loss.confidence", "epsilon.mode", "batch.size"} <= seen
    assert {"arch.steps", "epsilon.single", "hint.kind", "hint.classifier"} <= seen


def _corner(wanted: dict[str, object]) -> tuple[AttackSpec, dict[str, object]]:
    """The spec at `wanted`, with the first choice or low end of everything else."""

    class Corner(Random):
        def suggest_categorical(self, name, choices):
            return self._keep(name, wanted.get(name, choices[0]))

        def suggest_int(self, name, low, high, *, step=1, log=False):
            return self._keep(name, wanted.get(name, low))

        suggest_float = suggest_int

    trial = Corner(0)
    return draw(trial), trial.drawn


@pytest.mark.parametrize(
    ("name", "switch", "values"),
    [
        ("loss.confidence", "loss.name", ("margin",)),
        ("loss.depth", "loss.name", ("similarity", "distance")),
        ("targets.temperature", "targets.weighting", ("softmin",)),
        ("epsilon.single", "epsilon.mode", ("single",)),
        ("epsilon.sampling", "epsilon.mode", ("heads", "scaled", "film")),
        ("hint.classifier", "hint.kind", ("input", "multiscale")),
        ("hint.steps", "hint.kind", ("input", "multiscale")),
        ("hint.gain", "hint.steps", (1, 2, 3)),
        ("hint.second", "hint.steps", (2, 3)),
        ("arch.steps", "arch.name", ("recurrent",)),
        ("arch.update", "arch.name", ("recurrent",)),
        *((f"targets.weight.{text}", "targets.weighting", ("weighted",)) for text in TARGETS),
    ],
)
def test_parameters_exist_where_they_mean_something(name, switch, values) -> None:
    assert {d.name: when for when, d in walk(draw)}[name][switch] == values
    for seed in range(40):
        _, point = drawn(seed)
        assert (name in point) == (point.get(switch) in values)


@pytest.mark.parametrize("targets", [(), ("vgg",)])
def test_one_target_is_not_weighed(targets) -> None:
    asked = {d.name for _, d in walk(partial(suggest, targets=targets))}
    assert not [name for name in asked if name.startswith("targets.")]


def test_any_other_classifier_may_be_asked_beside_the_first() -> None:
    found = set()
    for seed in range(300):
        spec, point = drawn(seed)
        hint = spec.hint
        others = {text for text in TARGETS if is_carried(text)} - {hint.classifier}
        assert set(hint.beside) == (others if hint.kind != "none" else set())
        assert {f"hint.beside.{text}" for text in hint.beside} == {
            n for n in point if "beside" in n
        }
        found.add((hint.classifier, sum(hint.beside.values())))
    assert {asked for _, asked in found} >= {0, 1}


def test_a_specs_weights_are_parameters_of_their_own() -> None:
    names = {f"targets.weight.{text}": k + 1.0 for k, text in enumerate(TARGETS)}
    spec = AttackSpec.from_parameters({"targets.weighting": "weighted", **names})
    assert spec.targets.weight == dict(zip(TARGETS, (1.0, 2.0, 3.0), strict=True))
    assert {k: v for k, v in spec.parameters().items() if "weight." in k} == names


def test_a_spec_from_before_there_were_boosters_and_weights_still_opens() -> None:
    old = json.loads(AttackSpec().model_dump_json())
    del old["targets"], old["loss"]["depth"]
    old["augment"] = {"flip": True, "diversity": 0.3}
    assert AttackSpec.model_validate(old) == AttackSpec()


def test_no_hint_is_asked_for_where_no_classifier_can_give_one() -> None:
    names = {domain.name for _, domain in walk(partial(suggest, targets=("my.nets:Net",)))}
    assert not {name for name in names if name.startswith("hint.")}
    assert names < {domain.name for _, domain in walk(draw)}


def test_a_spec_from_before_hints_is_read() -> None:
    old = json.loads(AttackSpec().model_dump_json())
    del old["hint"], old["epsilon"]["single"]
    assert AttackSpec.model_validate(old) == AttackSpec()


def test_a_spec_from_before_steps_and_sums_is_read() -> None:
    given = {"arch.name": "recurrent", "hint.kind": "input", "hint.classifier": "vgg"}
    old = json.loads(AttackSpec.from_parameters(given).model_dump_json())
    del old["hint"]["steps"], old["hint"]["gain"], old["hint"]["second"], old["arch"]["update"]
    assert AttackSpec.model_validate(old) == AttackSpec.from_parameters(given)


@pytest.mark.parametrize("spec", SPECS)
def test_json_both_ways(spec: AttackSpec) -> None:
    text = spec.model_dump_json()
    again = AttackSpec.model_validate_json(text)
    assert again == spec
    assert type(again.arch) is type(spec.arch)
    assert again.model_dump_json() == text
    assert json.loads(text)["arch"]["width"] == spec.arch.width


@pytest.mark.parametrize("spec", SPECS)
def test_parameters_and_from_parameters_are_inverse(spec: AttackSpec) -> None:
    assert AttackSpec.from_parameters(spec.parameters()) == spec


def test_what_is_left_out_keeps_its_default() -> None:
    assert AttackSpec.from_parameters({}) == AttackSpec()
    spec = AttackSpec.from_parameters({"batch.size": 7})
    assert (spec.batch.size, spec.optimizer) == (7, AttackSpec().optimizer)


def test_the_default_spec_lies_in_the_space() -> None:
    given = Given(AttackSpec().parameters())
    assert draw(given) == AttackSpec()


@pytest.mark.parametrize(
    "place", ["batch", "arch", "epsilon", "hint", "loss", "targets", "optimizer", "augment"]
)
def test_specs_are_frozen(place) -> None:
    spec = AttackSpec()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(spec, place, getattr(spec, place))
    part = getattr(spec, place)
    field = next(iter(type(part).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(part, field, getattr(part, field))
    assert hash(spec.batch) == hash(AttackSpec().batch)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"batch.size": 0}, "batch.size is 0: input should be greater than or equal to 1"),
        ({"optimizer.lr": 11.0}, "optimizer.lr is 11.0: input should be less than or equal to 10"),
        (
            {"optimizer.name": "sgd"},
            "optimizer.name is 'sgd': input should be 'adam' or 'momentum'",
        ),
        ({"loss.confidence": -1.0}, "loss.confidence is -1.0: input should be greater than or"),
        ({"loss.weight": 1.0}, "loss.weight is 1.0: extra inputs are not permitted"),
        ({"loss.depth": 1.5}, "loss.depth is 1.5: input should be less than or equal to 1"),
        ({"augment.smoothing": 4}, "augment.smoothing is 4: a kernel has an odd number of pixels"),
        ({"augment.copies": 0}, "augment.copies is 0: input should be greater than or equal to 1"),
        ({"targets.temperature": 0.0}, "targets.temperature is 0.0: input should be greater than"),
        ({"targets.weighting": "best"}, "targets.weighting is 'best': input should be 'mean', 'so"),
        ({"targets.weight.a.py:N": 0.0}, "targets.weight.a.py:N is 0.0: input should be greater"),
        ({"epsilon.values": (8, 4)}, "epsilon.values is (8, 4): budgets must be increasing inte"),
        ({"epsilon.values": ()}, "epsilon.values is (): tuple should have at least 1 item"),
        ({"augment.diversity": 1.5}, "augment.diversity is 1.5: input should be less than or"),
        ({"augment.flip": "perhaps"}, "augment.flip is 'perhaps': input should be a valid boolean"),
        (
            {"hint.kind": "input"},
            "hint is {'kind': 'input'}: a classifier goes with every kind but",
        ),
        ({"hint.classifier": "vgg"}, "hint is {'classifier': 'vgg'}: a classifier goes with every"),
        (
            {"hint.kind": "input", "hint.classifier": "vgg", "hint.beside.vgg": True},
            "hint is {'kind': 'input', 'classifier': 'vgg', 'beside': {'vgg': True}}: a classifier is not asked",
        ),
        (
            {"hint.beside.vgg": True},
            "hint is {'beside': {'vgg': True}}: without a hint there is none to ask others beside",
        ),
        ({"hint.steps": 1}, "hint is {'steps': 1}: without a hint there is nothing to climb in"),
        (
            {"hint.beside_gain": 1.0},
            "hint is {'beside_gain': 1.0}: without a hint there is nothing to climb in",
        ),
        (
            {"hint.kind": "all"},
            "hint.kind is 'all': input should be 'none', 'input' or 'multiscale'",
        ),
        ({"epsilon.single": 0}, "epsilon.single is 0: input should be greater than or equal to 1"),
        (
            {"epsilon.mode": "all"},
            "epsilon.mode is 'all': input should be 'heads', 'scaled', 'film'",
        ),
        (
            {"arch.name": "recurrent", "speed.limit": 3},
            "speed is {'limit': 3}: extra inputs are not",
        ),
        ({"speed.limit": 3}, "speed is {'limit': 3}: extra inputs are not permitted"),
    ],
)
def test_bad_values_are_explained_in_one_sentence(parameters, said) -> None:
    with pytest.raises(ValidationError) as raised:
        AttackSpec.from_parameters(parameters)
    sentence = explain(raised.value)
    assert sentence.startswith(said)
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"arch.name": "dense"}, f"arch.name is 'dense'; allowed: {', '.join(GENERATORS)}"),
        ({"arch.width": 8}, f"arch.name is None; allowed: {', '.join(GENERATORS)}"),
        ({"arch.name": "recurrent", "arch.steps": 3}, "arch.steps is 3: input should be less than"),
        ({"arch.name": "resnet", "arch.width": 1000}, "arch.width is 1000: input should be less"),
    ],
)
def test_bad_architectures_are_refused_in_one_sentence(parameters, said) -> None:
    with pytest.raises(UsageError) as raised:
        AttackSpec.from_parameters(parameters)
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)
