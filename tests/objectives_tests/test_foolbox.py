"""The iterative baselines against foolbox's, on the same classifier in both frameworks.

Foolbox is an implementation of its own: its attacks drive a torch twin of a Chainer classifier here.
"""

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import numpy as np
import pytest

from models.classifiers import Classifier, build, freeze
from objectives.baselines import ascend, parse_ascent

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'jigsaw[torch]'")
foolbox = pytest.importorskip(
    "foolbox", reason="foolbox is not installed: pip install 'jigsaw[test]'"
)

# isort: split
from foolbox.attacks import (  # noqa: E402  after the skip
    LinfBasicIterativeAttack,
    LinfFastGradientAttack,
    LinfMomentumIterativeFastGradientMethod,
    LinfProjectedGradientDescentAttack,
)
from foolbox.attacks.gradient_descent_base import normalize_lp_norms  # noqa: E402


class MomentumOfMeans(LinfMomentumIterativeFastGradientMethod):
    """Foolbox adds up signs of gradients; Dong et al. 2018 gradients over their L1 norm."""

    def normalize(self, gradients, *, x, bounds):
        return normalize_lp_norms(gradients, p=1)


# Text of the baseline, foolbox's attack, and what it is given.
CASES = [
    ("fgsm", LinfFastGradientAttack, {}),
    ("i-fgsm", LinfBasicIterativeAttack, {"steps": 10, "rel_stepsize": 0.1}),
    ("i-fgsm:steps=7,step=0.3", LinfBasicIterativeAttack, {"steps": 7, "rel_stepsize": 0.3}),
    (
        "pgd:start=0",
        LinfProjectedGradientDescentAttack,
        {"steps": 10, "rel_stepsize": 0.25, "random_start": False},
    ),
    ("mi-fgsm", MomentumOfMeans, {"steps": 10, "rel_stepsize": 0.1, "momentum": 1.0}),
    (
        "mi-fgsm:steps=20,momentum=0.9",
        MomentumOfMeans,
        {"steps": 20, "rel_stepsize": 0.05, "momentum": 0.9},
    ),
]


@pytest.fixture(scope="module")
def net() -> Classifier:
    with chainer.using_config("dtype", np.dtype(np.float64)):
        return freeze(build("plain-w4", channels=3, classes=5, size=8, seed=3))


def twin(net: Classifier) -> "torch.nn.Module":
    """The same arithmetic in torch: convolutions and ReLU, mean over places, a linear head."""

    class Twin(torch.nn.Module):
        def forward(self, x):
            h = (x - tensor(net.mean)) / tensor(net.std)
            for layer in net.convs:
                h = torch.relu(
                    torch.nn.functional.conv2d(
                        h, tensor(layer.W), tensor(layer.b), layer.stride, layer.pad
                    )
                )
            return torch.nn.functional.linear(
                h.mean((2, 3)), tensor(net.linear.W), tensor(net.linear.b)
            )

    return Twin().eval()


def tensor(array) -> "torch.Tensor":
    return torch.tensor(np.asarray(getattr(array, "array", array)), dtype=torch.float64)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 1, (12, 3, 8, 8))


def by_foolbox(attack, net: Classifier, images: np.ndarray, epsilon: float) -> np.ndarray:
    model = foolbox.PyTorchModel(twin(net), bounds=(0, 1), device="cpu")
    x = torch.tensor(images)
    _, adversarial, _ = attack(model, x, model(x).argmax(1), epsilons=epsilon)
    return adversarial.numpy()


def test_the_twin_computes_the_same_logits(net, images) -> None:
    with torch.no_grad():
        np.testing.assert_allclose(twin(net)(tensor(images)), net(images).array, atol=1e-12)


@pytest.mark.parametrize("epsilon", [4, 16])
@pytest.mark.parametrize(("text", "kind", "settings"), CASES, ids=[case[0] for case in CASES])
def test_baselines_move_every_pixel_as_foolbox_does(
    net, images, text, kind, settings, epsilon
) -> None:
    found = ascend(images, epsilon / 255, [net], parse_ascent(text))
    expected = by_foolbox(kind(**settings), net, images, epsilon / 255)
    assert np.abs(expected - images).max() == pytest.approx(epsilon / 255)
    np.testing.assert_allclose(found, expected, atol=1e-9)
