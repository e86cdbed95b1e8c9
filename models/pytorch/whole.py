"""What does not change as one function of torch: a frozen classifier, and an attack network in an attack.

On a GPU each of Chainer's many small nodes costs more than its arithmetic, and everywhere some of the arithmetic is
spared: operations are read off once, with normalisations folded into convolutions. Torch differentiates classifiers by
the image.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import chainer
import numpy as np
import torch
from numpy.typing import NDArray

from models import weights
from models.classifiers import Classifier
from models.classifiers.foreign import Foreign
from models.classifiers.pytorch import TorchModule
from models.generators import AttackNetwork
from models.kernels.exchange import array, tensor
from models.pytorch import attack_network
from models.pytorch.description import describe
from models.pytorch.tracing import Traced, fold, graph, tensors, trace_classifier
from study.errors import UsageError

__all__ = ["attack", "logits", "look"]

Array = NDArray[Any]


def logits(classifier: Classifier, images: Any) -> chainer.Variable | None:
    """Return the logits (N, classes) of images (N, C, H, W), which are differentiable once.

    Args:
        classifier: frozen; changed by `models.weights.assign` from then on, if at all.
        images: in [0, 1], an array or a Variable, of a size that it takes.

    Returns:
        None where the classifier holds what has no operator in torch here.
    """
    whole = _whole(classifier)
    if whole is None:
        return None
    _wake(tensor(chainer.as_variable(images).array).device)
    return whole.link(images)


def look(
    classifier: Classifier, images: Array, labels: Array | None, *, deep: bool
) -> tuple[Array, Array, tuple[Array, ...]] | None:
    """Return what a hint says about images (see `models.hints.Look`): answers, gradient, maps if `deep`.

    Args:
        classifier: as for `logits`.
        images: (N, C, H, W) in [0, 1], any H and W.
        labels: the answers to take gradients against; None means the classifier's own to these images.
        deep: whether maps are asked for.

    Returns:
        None where the classifier holds what has no operator in torch here.
    """
    whole = _whole(classifier)
    if whole is None:
        return None
    x = tensor(images)
    _wake(x.device)
    whole.link.follow(x)
    found = whole.module(x, None if labels is None else tensor(labels).long(), deep)
    return array(found[0]), array(found[1]), tuple(map(array, found[2]))


def attack(network: AttackNetwork) -> Callable[[Array, NDArray[np.integer]], Array] | None:
    """Return what a network makes of images (N, C, H, W) in [0, 1] and budgets (N,), with its weights of now.

    Returns:
        None where the network, or what its hint asks, holds what has no operator in torch here.
    """
    try:
        module = attack_network.AttackNetwork(*describe(network, fold, _traced))
    except UsageError:
        return None
    module.eval().to(memory_format=torch.channels_last)

    def attacked(images: Array, epsilon: NDArray[np.integer]) -> Array:
        x = tensor(images)
        _wake(x.device)
        module.to(x)
        with torch.no_grad():
            return array(module(x, torch.from_numpy(epsilon)))

    return attacked


@cache
def _wake(device: torch.device) -> None:
    """Multiply and differentiate once: torch warns, once, that its thread for that found no context of CUDA's.

    CuPy made the context, in another thread. It takes it then.
    """
    if device.type == "cuda":
        x = torch.zeros(2, 2, device=device, requires_grad=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Attempting to run cuBLAS")
            torch.autograd.grad((x @ x).sum(), x)


class _Whole:
    def __init__(self, classifier: Classifier) -> None:
        self.traced = fold(trace_classifier(classifier))
        size = None if classifier.any_size else classifier.size
        climb = {"steps": 0, "gain": 1.0, "beside_gain": 0.0}
        facts = {"maps": True, "size": size, **climb, **graph(self.traced)}
        hint = attack_network.Hint(facts, tensors(self.traced.arrays))
        self.module = hint.to(memory_format=torch.channels_last).eval()
        name = type(classifier).__name__  # for what torch says, such as that memory is short
        self.link = TorchModule(name, _Last(self.module), classifier.classes, b"")


class _Last(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, hint: attack_network.Hint) -> None:
        super().__init__()
        self.hint = hint

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.hint.answers(images)[-1]


_known: WeakKeyDictionary[Classifier, tuple[int, _Whole | None]] = WeakKeyDictionary()


def _whole(classifier: Classifier) -> _Whole | None:
    now = weights.assigned(classifier)
    made, whole = _known.get(classifier, (None, None))
    if made != now:
        _known[classifier] = now, (whole := _made(classifier))
    return whole


def _traced(classifier: Classifier) -> Traced:
    if (whole := _whole(classifier)) is None:
        raise UsageError(f"{type(classifier).__name__} holds what has no operator in torch here")
    return whole.traced


def _made(classifier: Classifier) -> _Whole | None:
    if isinstance(classifier, Foreign):  # torch's already
        return None
    try:
        return _Whole(classifier)
    except UsageError:  # an operator is missing: Chainer computes it
        return None
