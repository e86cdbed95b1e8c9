"""Both objectives end to end on digits: prepared, suggested, evaluated, reported, pruned, repeated."""

import json
from io import BytesIO

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

import objectives.attack
from models import weights
from models.generators import build
from models.package import load_package, save_package
from objectives.attack import AttackObjective, AttackSettings, _budgets
from objectives.baselines import noop, random_sign
from objectives.classifier import ClassifierObjective, ClassifierSpec
from objectives.evaluation import error_rates, network_attack
from objectives.hints import load_hint
from objectives.losses import LOSSES, TRUE_LABEL_LOSSES
from objectives.retraining import retrain
from objectives.spec import AttackSpec, HintSpec
from study.errors import TrialPruned, UsageError
from study.objective import Objective, Result, decode, encode, load_objective
from study.space import Given, fill_point, walk
from study.steering import Command, Steering
from study.world import World
from tests.study_tests.test_steering import Asked

TINY = {
    "data": "digits", "train": ("plain-w8", "resnet8-w4"), "tune": ("plain-w8@1",),
    "report": ("vgg-w4",), "epsilons": (8, 40), "images": 160, "tune_images": 50, "reports": 4,
    "classifier_images": 3000,
}  # fmt: skip
SPEC = AttackSpec.from_parameters(
    {
        "arch.name": "resnet",
        "arch.width": 4,
        "arch.downs": 1,
        "arch.blocks": 0,
        "batch.size": 16,
        "epsilon.values": (8, 16, 40),
    }
)


class Recorder:
    """A report that remembers, and prunes at its n-th call if asked to."""

    def __init__(self, prune_at: int | None = None) -> None:
        self.calls: list[tuple[int, float, dict[str, float]]] = []
        self.prune_at = prune_at
        self.steering = Steering()

    def __call__(self, step, value=None, logs=None) -> None:
        self.calls.append((step, value, dict(logs or {})))
        if len(self.calls) == self.prune_at:
            raise TrialPruned("enough")


@pytest.fixture(scope="module")
def attack(tmp_path_factory) -> AttackObjective:
    objective = AttackObjective(**TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JIGSAW_CACHE", str(tmp_path_factory.mktemp("cache")))
        objective.prepare(World())
    return objective


def test_an_attack_trial_reports_at_equal_distances_and_leaves_its_results(attack) -> None:
    report = Recorder()
    result = attack.evaluate(SPEC, World(), report)
    assert isinstance(result, Result)
    assert [step for step, _, _ in report.calls] == [40, 80, 120, 160]
    for _, value, logs in report.calls:
        assert set(logs) == {"error.eps08", "error.eps40", "loss", "iteration", "epoch"}
        assert logs["epoch"] * len(attack.data.train.labels) == pytest.approx(
            logs["iteration"] * SPEC.batch.size
        )
        assert value == pytest.approx((logs["error.eps08"] + logs["error.eps40"]) / 2)
    last = report.calls[-1]
    assert result.value == last[1]
    assert {k: result.attributes[k] for k in ("error.eps08", "error.eps40")} == {
        k: v for k, v in last[2].items() if k.startswith("error.")
    }
    pictures = {"examples.eps08.png", "examples.eps40.png"}
    answers = {name.replace("png", "json") for name in pictures}
    assert set(result.files) == {"weights.npz", *pictures, *answers}
    for name in pictures:
        said = json.loads(result.files[name.replace("png", "json")])
        assert set(said["before"]) == set(said["after"]) == set(attack._classifiers)
        assert Image.open(BytesIO(result.files[name])).size == (8 * 8 * 3, 3 * 8 * 3)


def test_its_weights_are_those_that_were_scored(attack) -> None:
    result = attack.evaluate(SPEC, World(), Recorder())
    network = build(SPEC.arch, SPEC.epsilon, channels=1, seed=99)
    with np.load(BytesIO(result.files["weights.npz"]), allow_pickle=False) as arrays:
        weights.assign(network, dict(arrays))
    assert network.count_params() == result.attributes["parameters"]
    judge = attack._classifiers["plain-w8@1"]
    again = error_rates(network_attack(network), [judge], *attack._tune_images(), (8, 40), World())
    assert float(again.mean()) == result.value


def test_training_makes_a_classifier_wrong_that_it_never_saw(attack) -> None:
    longer = AttackObjective(**{**TINY, "images": 3200, "reports": 1, "epsilons": (8, 64)})
    longer._classifiers, longer._clean = attack._classifiers, attack._clean
    spec = AttackSpec.from_parameters(
        {
            "arch.name": "resnet", "arch.width": 8, "arch.downs": 1, "arch.blocks": 0,
            "arch.norm": "instance", "epsilon.mode": "scaled", "epsilon.values": (64,),
            "loss.name": "margin", "loss.confidence": 5.0, "loss.smoothness": 0.0,
            "optimizer.name": "adam", "optimizer.lr": 0.02, "optimizer.schedule": "cosine",
            "batch.size": 32, "augment.flip": False, "augment.diversity": 0.0,
        }
    )  # fmt: skip
    _, errors = longer.train(spec, World(), Recorder(), 0)
    judge, tune = attack._classifiers["plain-w8@1"], attack._tune_images()
    clean, noisy = (
        error_rates(a, [judge], *tune, [64], World())[0, 0] for a in (noop, random_sign)
    )
    assert clean < 0.25
    assert noisy < 0.45
    assert errors[1] > noisy + 0.2
    assert errors[1] > errors[0]


def changed(**parts: dict[str, object]) -> AttackSpec:
    return AttackSpec.model_validate(
        {name: fields | parts.get(name, {}) for name, fields in SPEC.model_dump().items()}
    )


@pytest.mark.parametrize("kind", ["input", "multiscale"])
@pytest.mark.parametrize(
    "arch", [{}, {"name": "recurrent", "downs": 1, "blocks": ...}], ids=["resnet", "recurrent"]
)
def test_a_trial_with_hints_is_scored_and_packaged_with_them(attack, tmp_path, kind, arch) -> None:
    fields = {k: v for k, v in (SPEC.arch.model_dump() | arch).items() if v is not ...}
    spec = AttackSpec.model_validate(
        SPEC.model_dump() | {"arch": fields, "hint": {"kind": kind, "classifier": "resnet8-w4"}}
    )
    before = weights.digest(attack._classifiers["resnet8-w4"])
    result = attack.evaluate(spec, World(), Recorder())
    hint = attack.hint(spec, World())
    network = build(spec.arch, spec.epsilon, channels=1, seed=99, hint=hint)
    with np.load(BytesIO(result.files["weights.npz"]), allow_pickle=False) as arrays:
        weights.assign(network, dict(arrays))
    save_package(tmp_path / "package", network, {})
    found, _ = load_package(tmp_path / "package")
    judge, tune = attack._classifiers["plain-w8@1"], attack._tune_images()
    again = error_rates(network_attack(found), [judge], *tune, (8, 40), World())
    assert float(again.mean()) == result.value
    assert weights.digest(attack._classifiers["resnet8-w4"]) == before


@pytest.mark.parametrize("text", ["plain-w8@1", "vgg-w4", "mobilenet", "resnet8-w4@1"])
def test_a_hint_from_what_an_attack_is_judged_by_is_refused(attack, text) -> None:
    spec = changed(hint={"kind": "input", "classifier": text})
    with pytest.raises(UsageError) as raised:
        attack.evaluate(spec, World(), Recorder())
    assert str(raised.value) == (
        f"hint.classifier is {text!r}, and hints come from what the attack trains on; "
        "allowed: plain-w8, resnet8-w4"
    )
    with pytest.raises(UsageError, match=r"allowed: plain-w8 \| resnet8-w4"):
        fill_point(
            attack.suggest, {**attack.default, "hint.kind": "input", "hint.classifier": text}, {}
        )


def test_a_second_classifier_is_one_that_the_attack_trains_on(attack) -> None:
    given = {"kind": "input", "classifier": "plain-w8", "steps": 2}
    hint = attack.hint(changed(hint={**given, "second": "resnet8-w4"}), World())
    assert (hint.second.kind, hint.second.text) == ("input", "resnet8-w4")
    assert hint.second.classifier is attack._classifiers["resnet8-w4"]
    with pytest.raises(UsageError) as raised:
        attack.hint(changed(hint={**given, "second": "vgg-w4"}), World())
    assert str(raised.value) == (
        "hint.second is 'vgg-w4', and hints come from what the attack trains on; "
        "allowed: plain-w8, resnet8-w4"
    )


def test_those_asked_beside_the_first_are_of_those_that_the_attack_trains_on(attack) -> None:
    given = {"kind": "multiscale", "classifier": "plain-w8"}
    asked = {**given, "beside": {"resnet8-w4": True}, "beside_gain": 0.5}
    hint = attack.hint(changed(hint=asked), World())
    assert hint.beside_gain == 0.5
    assert [(h.kind, h.text) for h in hint.beside] == [("input", "resnet8-w4")]
    assert hint.beside[0].classifier is attack._classifiers["resnet8-w4"]
    assert not attack.hint(changed(hint={**given, "beside": {"resnet8-w4": False}}), World()).beside
    with pytest.raises(UsageError) as raised:
        attack.hint(changed(hint={**given, "beside": {"vgg-w4": True}}), World())
    assert str(raised.value) == (
        "hint.beside is 'vgg-w4', and hints come from what the attack trains on; "
        "allowed: plain-w8, resnet8-w4"
    )


def test_a_hint_is_loaded_alone_where_nothing_was_prepared(attack, monkeypatch) -> None:
    fresh, asked = AttackObjective(**TINY), []

    def loaded(texts, *_):
        asked.extend(texts)
        return attack._classifiers

    monkeypatch.setattr("objectives.attack.load_targets", loaded)
    spec = changed(hint={"kind": "input", "classifier": "plain-w8"})
    assert fresh.hint(spec, World()).classifier is attack._classifiers["plain-w8"]
    assert asked == ["plain-w8"]
    assert fresh.hint(SPEC, World()) is None


def test_code_of_the_users_own_gives_no_hints() -> None:
    objective = AttackObjective(**{**TINY, "train": ("my.nets:Net", "plain-w8@3")})
    (domain,) = [d for _, d in walk(objective.suggest) if d.name == "hint.classifier"]
    assert domain.choices == ("plain-w8@3",)
    hint = HintSpec(kind="input", classifier="my.nets:Net")
    with pytest.raises(UsageError, match=r"'my\.nets:Net', which an attack package cannot carry"):
        load_hint(hint, ["my.nets:Net"], lambda _: attack)


@pytest.mark.parametrize("size", [7, 16, 64, 500])
def test_trials_of_any_batch_size_report_at_the_same_points(attack, size) -> None:
    report = Recorder()
    spec = SPEC.model_copy(update={"batch": SPEC.batch.model_copy(update={"size": size})})
    attack.evaluate(spec, World(), report)
    steps = [step for step, _, _ in report.calls]
    assert steps == sorted(set(steps))
    assert set(steps) <= {40, 80, 120, 160}
    assert steps[-1] == 160
    assert len(steps) == 4 or size > 40


def test_a_pruned_trial_stops_where_it_was_told(attack) -> None:
    report = Recorder(prune_at=2)
    with pytest.raises(TrialPruned, match="enough"):
        attack.evaluate(SPEC, World(), report)
    assert len(report.calls) == 2
    assert chainer.config.train is True


@pytest.mark.parametrize(
    "changes",
    [
        *({"loss.name": name} for name in (*LOSSES, *TRUE_LABEL_LOSSES)),
        {"epsilon.sampling": "small"},
        {"epsilon.sampling": "large"},
        {"augment.smoothing": 5, "augment.copies": 2, "augment.normalization": 0.1},
        {"targets.weighting": "softmin", "targets.temperature": 0.3},
        {"targets.weighting": "worst"},
        {
            "targets.weighting": "weighted",
            "targets.weight.plain-w8": 0.2,
            "targets.weight.resnet8-w4": 1.0,
        },
    ],
    ids=str,
)
def test_every_loss_sampling_booster_and_weighting_trains(attack, changes) -> None:
    spec = AttackSpec.from_parameters(SPEC.parameters() | changes)
    report = Recorder()
    attack.evaluate(spec, World(), report)
    assert all(np.isfinite(logs["loss"]) for _, _, logs in report.calls)


def test_a_step_shows_one_copy_however_many_there_are(attack, monkeypatch) -> None:
    counts, real = [], objectives.attack.image_losses

    def counted(loss, targets, shown, *rest):
        counts.append(len(shown))
        return real(loss, targets, shown, *rest)

    monkeypatch.setattr(objectives.attack, "image_losses", counted)
    attack.evaluate(changed(augment={"copies": 3}), World(), Recorder())
    assert counts == [1] * 10


@pytest.mark.parametrize("changes", [{"loss.name": "cross_entropy"}, {"augment.smoothing": 5},
    {"augment.copies": 2}, {"augment.normalization": 0.1}, {"targets.weighting": "worst"}])  # fmt: skip
def test_what_is_searched_changes_what_is_learned(attack, changes) -> None:
    spec = AttackSpec.from_parameters(SPEC.parameters() | changes)
    plain, other = (retrain(attack, s, 0, World(), {}).network for s in (SPEC, spec))
    assert weights.digest(plain) != weights.digest(other)


def test_weights_of_other_targets_end_the_trial_in_one_sentence(attack) -> None:
    spec = AttackSpec.from_parameters(
        SPEC.parameters() | {"targets.weighting": "weighted", "targets.weight.vgg": 1.0}
    )
    with pytest.raises(
        UsageError, match=r"targets\.weight names vgg; allowed: .* plain-w8, resnet8"
    ):
        attack.evaluate(spec, World(), Recorder())


@pytest.mark.parametrize(
    ("sampling", "chances"),
    [("uniform", [1 / 3] * 3), ("small", [4 / 7, 2 / 7, 1 / 7]), ("large", [1 / 7, 2 / 7, 4 / 7])],
)
def test_budgets_are_drawn_in_proportion(sampling, chances) -> None:
    spec = AttackSpec.from_parameters({"epsilon.values": (4, 8, 16), "epsilon.sampling": sampling})
    drawn = _budgets(spec, np.random.default_rng(0), 70_000)
    found = [np.mean(drawn == value) for value in (4, 8, 16)]
    np.testing.assert_allclose(found, chances, atol=0.01)


def test_a_network_for_one_budget_is_trained_on_no_other() -> None:
    spec = AttackSpec.from_parameters({"epsilon.mode": "single", "epsilon.single": 7})
    assert set(_budgets(spec, np.random.default_rng(0), 1000)) == {7}


@pytest.mark.parametrize("name", ["film", "single"])
def test_every_treatment_of_budgets_trains(attack, name) -> None:
    value = attack.evaluate(changed(epsilon={"mode": name}), World(), Recorder()).value
    assert 0 <= value <= 1


def test_repeating_a_trial_gives_the_same_bits(attack) -> None:
    once = retrain(attack, SPEC, 0, World(), {"study": "demo", "trial": 3})
    trial = attack.evaluate(SPEC, World(), Recorder())
    assert weights.encode(once.network) == trial.files["weights.npz"]
    assert float(once.errors.mean()) == trial.value
    other = retrain(attack, SPEC, 1, World(), {})
    assert weights.digest(other.network) != weights.digest(once.network)


def test_a_retrained_network_says_how_it_was_made(attack) -> None:
    record = retrain(attack, SPEC, 5, World(), {"study": "demo", "trial": 3}).record
    assert (record["study"], record["trial"], record["seed"], record["ranks"]) == ("demo", 3, 5, 1)
    assert AttackSpec.model_validate(record["spec"]) == SPEC
    assert record["conditions"] == attack.settings
    assert record["data"] == {"name": "digits", "sha256": attack.data.digest}


def test_a_trial_is_scored_on_tune_images_of_every_class(attack) -> None:
    images, labels = attack._tune_images()
    tune = attack.data.tune
    rows = [np.flatnonzero((tune.images == image).all(axis=(1, 2, 3)))[0] for image in images]
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(tune.labels[rows], labels)
    assert len(images) == 50
    assert set(labels) == set(range(10))


OBJECTIVES = [
    pytest.param(AttackObjective, TINY, id="attack"),
    pytest.param(
        ClassifierObjective, {"data": "digits", "images": 200, "reports": 2}, id="classifier"
    ),
]


@pytest.mark.parametrize(("kind", "settings"), OBJECTIVES)
def test_settings_build_the_same_objective_again(kind: type[Objective], settings) -> None:
    objective = kind(**settings)
    again = load_objective(f"{kind.__module__}:{kind.__name__}", objective.settings)
    assert again.settings == objective.settings
    assert again.note == objective.note
    assert len(objective.note) > 20


@pytest.mark.parametrize(("kind", "settings"), OBJECTIVES)
def test_the_default_is_a_point_of_the_space_and_survives_json(kind, settings) -> None:
    objective = kind(**settings)
    point = fill_point(objective.suggest, objective.default, {})
    spec = objective.suggest(Given(point))
    assert decode(objective, encode(objective, spec)) == spec


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tune": ("plain-w8",)}, "classifier 'plain-w8' is in the sets 'train' and 'tune'; the"),
        ({"report": ("plain-w8@1",)}, "classifier 'plain-w8@1' is in the sets 'tune' and 'report'"),
    ],
)
def test_sets_that_overlap_are_refused(changes, said) -> None:
    with pytest.raises(UsageError) as raised:
        load_objective("objectives.attack:AttackObjective", {**TINY, **changes})
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"epsilons": (0, 4)},
            "epsilons is (0, 4): budgets must be different integers, each 1..255",
        ),
        ({"epsilons": (4, 4)}, "epsilons is (4, 4): budgets must be different integers"),
        ({"epsilons": ()}, "epsilons is (): tuple should have at least 1 item"),
        ({"images": 0}, "images is 0: input should be greater than or equal to 1"),
        ({"train": ()}, "train is (): tuple should have at least 1 item"),
        ({"epsilon": 4}, "epsilon is 4: extra inputs are not permitted"),
    ],
)
def test_bad_settings_are_explained_in_one_sentence(changes, said) -> None:
    with pytest.raises(UsageError) as raised:
        load_objective("objectives.attack:AttackObjective", {**TINY, **changes})
    text = str(raised.value)
    assert text.startswith(f"settings of objectives.attack:AttackObjective: {said}")
    assert "\n" not in text


def test_one_thing_is_a_list_of_one() -> None:
    settings = AttackSettings(train="vgg", tune="plain", report="mobilenet", epsilons=8)
    assert (settings.train, settings.epsilons) == (("vgg",), (8,))
    with pytest.raises(ValidationError, match="frozen"):
        settings.images = 3


def test_more_tune_images_than_there_are_is_said_before_anything_is_trained(cache) -> None:
    objective = AttackObjective(**{**TINY, "tune_images": 9999})
    with pytest.raises(UsageError) as raised:
        objective.prepare(World())
    assert str(raised.value) == "tune_images is 9999, and digits has 300 tune images"
    assert not cache.exists()


@pytest.fixture(scope="module")
def classifier() -> ClassifierObjective:
    return ClassifierObjective(data="digits", images=1600, reports=4)


def test_a_classifier_trial_learns_and_reports(classifier) -> None:
    report = Recorder()
    spec = ClassifierSpec(classifier="plain-w8")
    result = classifier.evaluate(spec, World(), report)
    assert [step for step, _, _ in report.calls] == [400, 800, 1200, 1600]
    assert result.value == report.calls[-1][1] > 0.5
    assert classifier.evaluate(spec, World(), Recorder()).value == result.value


def test_a_pruned_classifier_trial_stops(classifier) -> None:
    report = Recorder(prune_at=2)
    with pytest.raises(TrialPruned):
        classifier.evaluate(ClassifierSpec(classifier="plain-w2"), World(), report)
    assert len(report.calls) == 2


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"lr": 0.0}, "spec: lr is 0.0: input should be greater than or equal to 0.000001"),
        ({"name": "sgd"}, "spec: name is 'sgd': input should be 'adam' or 'momentum'"),
        ({"batch": 0}, "spec: batch is 0: input should be greater than or equal to 1"),
    ],
)
def test_bad_classifier_specs_are_explained(classifier, fields, said) -> None:
    with pytest.raises(UsageError) as raised:
        decode(classifier, json.dumps(fields).encode())
    assert str(raised.value) == said


def test_a_classifier_study_wants_one_rank(classifier) -> None:
    world = World()
    world.size = 2
    with pytest.raises(UsageError, match="trained on one rank, and this job has 2; start as many"):
        classifier.prepare(world)


@pytest.mark.parametrize(("widest", "width"), [(8, 8), (16, 16), (128, 16)])
def test_the_default_is_no_wider_than_what_is_searched(widest, width) -> None:
    objective = AttackObjective(**TINY, widest=widest)
    assert objective.default["arch.width"] == width
    spec = objective.suggest(Given(objective.default))
    default = AttackSpec()
    assert spec == default.model_copy(
        update={"arch": default.arch.model_copy(update={"width": width})}
    )


def commanded(objective: Objective, **facts) -> Recorder:
    report = Recorder()
    report.steering = Steering(objective.settable, Asked({0: [Command(1, **facts)]}))
    return report


# Reports are at images 40, 80, ... in batches of 16, and at 400, 800, ... in batches of 32.
@pytest.mark.parametrize(
    ("name", "stop", "steps"),
    [
        ("attack", 4, [40, 64]), ("attack", 5, [40, 80]), ("attack", 2, [32]),
        ("classifier", 20, [400, 640]), ("classifier", 1, [32]),
    ],
)  # fmt: skip
def test_a_stopped_trial_is_scored_where_it_stopped(name, stop, steps, request) -> None:
    objective = request.getfixturevalue(name)
    spec = SPEC if name == "attack" else ClassifierSpec(classifier="plain-w2")
    report = commanded(objective, verb="stop", iteration=stop)
    result = objective.evaluate(spec, World(), report)
    assert [step for step, _, _ in report.calls] == steps
    assert result.value == report.calls[-1][1]


@pytest.mark.parametrize("values", [{"lr": 1e-5}, {"loss.smoothness": 1.0}])
def test_what_is_set_changes_the_training_of_an_attack(attack, values) -> None:
    plain, report = Recorder(), commanded(attack, verb="set", values=values, iteration=6)
    attack.evaluate(SPEC, World(), plain)
    attack.evaluate(SPEC, World(), report)
    losses = [[logs["loss"] for _, _, logs in r.calls] for r in (plain, report)]
    assert losses[0][:2] == losses[1][:2]
    assert losses[0][-1] != losses[1][-1]
