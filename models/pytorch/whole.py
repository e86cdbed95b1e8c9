"""A frozen classifier as one function of torch, on a GPU.

There each of Chainer's many small nodes costs more than its arithmetic. What is frozen needs none of them: its
operations are read off once, with its normalisations folded into its convolutions, and torch differentiates them by
the image.
"""

import copy
import warnings
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import chainer
import torch
from numpy.typing import NDArray

from models import weights
from models.classifiers import Classifier
from models.classifiers.foreign import Foreign
from models.classifiers.pytorch import TorchModule
from models.kernels.exchange import array, tensor
from models.pytorch import attack_network
from models.pytorch.tracing import fold, graph, tensors, trace_classifier
from study.errors import UsageError

__all__ = ["logits", "look"]

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
        here = copy.deepcopy(classifier)
        here.to_device("@numpy")
        traced = fold(trace_classifier(here))
        size = None if classifier.any_size else classifier.size
        climb = {"steps": 0, "gain": 1.0, "beside_gain": 0.0}
        facts = {"maps": True, "size": size, **climb, **graph(traced)}
        hint = attack_network.Hint(facts, tensors(traced.arrays))
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


def _made(classifier: Classifier) -> _Whole | None:
    if isinstance(classifier, Foreign):  # torch's already
        return None
    try:
        return _Whole(classifier)
    except UsageError:  # an operator is missing: Chainer computes it
        return None
