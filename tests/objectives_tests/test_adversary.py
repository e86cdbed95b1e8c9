"""Adversarial training: the inner attack by hand, and what it is worth on real images."""

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import chainer.functions as F
import numpy as np
import pytest

from models import weights
from models.classifiers import build, pretrained
from models.classifiers.robust import Robust
from objectives.adversary import Adversary, perturb, split_adversary
from objectives.baselines import baseline
from objectives.classifier import ClassifierObjective, ClassifierSpec
from objectives.data import load
from objectives.evaluation import error_rates
from objectives.targets import cache_folder, load_targets
from study.errors import UsageError
from study.world import World

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("text", "base", "adversary"),
    [
        ("resnet8", "resnet8", None),
        ("resnet8~fgsm-rs", "resnet8", Adversary(8, 1, 1.25)),
        ("resnet8~fgsm-rs:4", "resnet8", Adversary(4, 1, 1.25)),
        ("vgg-w8~pgd", "vgg-w8", Adversary(8, 7, 2.5 / 7)),
        ("a/b.py:Net~pgd:16x10", "a/b.py:Net", Adversary(16, 10, 0.25)),
    ],
)
def test_texts(text, base, adversary) -> None:
    assert split_adversary(text) == (base, adversary)


@pytest.mark.parametrize(
    "training", ["pdg", "pgd:0", "pgd:256", "pgd:8x0", "pgd:x3", "pgd:8.5", "fgsm-rs:8x2"]
)
def test_what_is_no_adversary_is_refused(training) -> None:
    with pytest.raises(UsageError) as raised:
        split_adversary(f"vgg~{training}")
    assert str(raised.value) == (
        f"classifier 'vgg~{training}': {training!r} after ~ is no adversarial training; allowed: "
        "fgsm-rs[:EPSILON], pgd[:EPSILON[xSTEPS]], EPSILON 1 to 255 and STEPS at least 1"
    )


class Linear(chainer.Chain):
    """Two logits, w x and -w x: the gradient's sign is known."""

    def __init__(self) -> None:
        super().__init__()
        self.w = RNG.choice([-1.0, 1.0], size=(1, 12)).astype(np.float32)

    def forward(self, x):
        logit = F.linear(F.reshape(chainer.as_variable(x), (-1, 12)), self.w)
        return F.concat([logit, -logit])


def test_one_step_by_hand() -> None:
    net = Linear()
    x = RNG.uniform(0.3, 0.7, (5, 3, 2, 2)).astype(np.float32)
    start = RNG.uniform(-1, 1, x.shape).astype(np.float32)
    labels = np.array([0, 1, 0, 1, 0], np.int32)
    # The loss of class 0 falls along w, that of class 1 along -w.
    uphill = np.where(labels == 0, -1, 1)[:, None] * net.w
    expected = np.clip(0.1 * start + 0.125 * uphill.reshape(x.shape), -0.1, 0.1)
    found = perturb(net, x, labels, start, 0.1, 0.125, 1)
    np.testing.assert_allclose(found - x, expected, atol=1e-6)


@pytest.mark.parametrize("text", ["x~fgsm-rs:16", "x~pgd:16x3"])
def test_the_ball_and_the_range_hold_and_the_loss_grows(text, plain_digits) -> None:
    _, adversary = split_adversary(text)
    net, split = plain_digits
    x = (split.images[:50] / 255).astype(np.float32)
    labels = split.labels[:50]
    before = weights.digest(net)
    found = adversary(net, x, labels, RNG.uniform(-1, 1, x.shape).astype(np.float32))
    assert found.dtype == np.float32
    assert np.abs(found - x).max() <= 16 / 255 + 1e-6
    assert 0 <= found.min() <= found.max() <= 1
    losses = [float(F.softmax_cross_entropy(net(images), labels).array) for images in (x, found)]
    assert losses[1] > losses[0] + 0.1
    assert weights.digest(net) == before


def test_training_leaves_batch_statistics_to_the_training_step() -> None:
    net = build("resnet8-w2", channels=1, classes=3, size=8, seed=0)
    net.cleargrads()
    before = weights.digest(net)
    x = RNG.uniform(0, 1, (4, 1, 8, 8)).astype(np.float32)
    with chainer.using_config("train", True):
        perturb(net, x, np.zeros(4, np.int32), np.zeros_like(x), 0.1, 0.1, 2)
    assert weights.digest(net) == before
    assert all(parameter.grad is None for parameter in net.params())


@pytest.mark.parametrize("training", ["fgsm-rs:32", "pgd:32x3"])
def test_a_robust_classifier_errs_less_under_attack(digits, training) -> None:
    texts = ["plain-w8", f"plain-w8~{training}"]
    nets = load_targets(texts, digits, 6000, World())
    errors = [
        error_rates(
            baseline("i-fgsm", [nets[text]]), [nets[text]], digits.tune.images, digits.tune.labels,
            [32], World(),
        )[0, 0]
        for text in texts
    ]  # fmt: skip
    assert errors[1] < errors[0] - 0.15


@pytest.fixture
def pretrained_resnet(tmp_path) -> str:
    """A residual network of CIFAR's size, with its weights in a file."""
    net = build("resnet8-w4-s1", channels=3, classes=10, size=32, seed=1)
    pretrained.save(tmp_path / "net.weights", net)
    return f"npz:{tmp_path / 'net.weights'}"


def test_pretrained_weights_are_trained_on_where_the_text_says_so(
    pretrained_resnet, tmp_path
) -> None:
    data, text = load("patches"), f"{pretrained_resnet}~fgsm-rs:4"
    # A fifth of the images is one batch, and one step of Adam moves no weight farther than its rate.
    nets = load_targets([pretrained_resnet, text], data, 5 * 32, World())
    before, after = (
        {p: w.array for p, w in nets[name].namedparams()} for name in (pretrained_resnet, text)
    )
    moved = {name: np.abs(after[name] - before[name]).max() for name in before}
    assert 0 < max(moved.values()) <= 1e-3 * 1.01
    kept = list(cache_folder().rglob("*.npz"))
    again = load_targets([text], data, 5 * 32, World())[text]
    assert weights.digest(again) == weights.digest(nets[text])
    assert list(cache_folder().rglob("*.npz")) == kept
    # Other weights under the same name are another classifier.
    pretrained.save(tmp_path / "net.weights", again)
    load_targets([text], data, 5 * 32, World())
    assert len(list(cache_folder().rglob("*.npz"))) == len(kept) + 1


def test_what_an_attack_package_could_not_carry_is_not_trained_on(tmp_path) -> None:
    names = {"conv1": "0", "conv2": "2", "linear1": "5", "linear2": "7"}
    arrays = {
        f"{torch}.{kind}": getattr(getattr(Robust(), own), short).array
        for own, torch in names.items()
        for kind, short in (("weight", "W"), ("bias", "b"))
    }
    np.savez(tmp_path / "robust.npz", **arrays)
    text = f"npz:{tmp_path / 'robust.npz'}~pgd:8"
    with pytest.raises(UsageError) as raised:
        load_targets([text], load("patches"), 64, World())
    assert str(raised.value) == (
        f"classifier {text!r} brings weights that cannot be trained on; allowed before ~: an "
        "architecture of models.classifiers, or npz:PATH of a residual network of CIFAR's size"
    )
    with pytest.raises(UsageError, match="'fgm' after ~ is no adversarial training"):
        load_targets([text.replace("pgd:8", "fgm")], load("patches"), 64, World())


SETTINGS = {"data": "digits", "images": 640, "reports": 2, "adversary": "pgd:32x2"}


class TestStudy:
    def test_trials_are_trained_and_scored_under_the_adversary(self) -> None:
        calls = []
        objective = ClassifierObjective(**SETTINGS)
        spec = ClassifierSpec(classifier="plain-w8~pgd:32x2")
        result = objective.evaluate(spec, World(), lambda *call: calls.append(call))
        assert result.value == calls[-1][1] < calls[-1][2]["accuracy.clean"]

    def test_the_adversary_is_part_of_the_spec(self) -> None:
        class Asked:
            def suggest_categorical(self, name, choices):
                return choices[0]

            def suggest_float(self, name, low, high, log=False):
                return low

        spec = ClassifierObjective(**SETTINGS).suggest(Asked())
        assert spec.classifier == "plain~pgd:32x2"

    def test_what_is_no_adversary_is_refused_at_once(self) -> None:
        with pytest.raises(UsageError, match="'fgm' after ~ is no adversarial training"):
            ClassifierObjective(data="digits", adversary="fgm")
