"""Torch modules and ONNX files as frozen classifiers: gradients cross over, weights never change."""

import sys
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import chainer
import numpy as np
import torch
from numpy.typing import NDArray

from models.classifiers.classifier import Classifier, freeze
from models.classifiers.foreign import Foreign
from models.kernels.exchange import array as _array
from models.kernels.exchange import tensor as _tensor
from models.pytorch.onnx_file import load_onnx
from study.errors import UsageError
from study.resolve import resolve

__all__ = ["TorchModule", "from_onnx", "from_torch"]

Array = NDArray[Any]


class TorchModule(chainer.Chain):  # type: ignore[misc]  # Chainer is untyped
    """A torch module as a link without parameters: differentiable once with respect to the images.

    Arrays are shared, not copied; the module follows the dtype and the device of the images.

    Args:
        text: what the classifier is called in errors.
        module: takes images (N, C, H, W) in [0, 1], gives logits (N, classes); it is put into evaluation
            mode, and its parameters take no gradients from then on.
        classes: number of logits.
        source: bytes that, with the module's state, say what it computes.
    """

    def __init__(self, text: str, module: torch.nn.Module, classes: int, source: bytes) -> None:
        super().__init__()
        self.text, self.classes, self.source = text, classes, sha256(source).digest()
        self.module = module.eval().requires_grad_(False)
        self._form: tuple[Any, ...] = ()

    def forward(self, x: Any) -> chainer.Variable:
        """Return the logits (N, classes) of images x (N, C, H, W), float32 or float64.

        Raises:
            UsageError: the module fails, or what it returns are no logits.
        """
        images = chainer.as_variable(x)
        if chainer.config.enable_backprop and images.requires_grad:
            return _Logits(self).apply((images,))[0]
        with torch.no_grad():
            return chainer.Variable(_array(self.answer(_tensor(images.array))), requires_grad=False)

    def answer(self, images: torch.Tensor) -> torch.Tensor:
        """Return the module's logits, checked."""
        try:
            self.follow(images)
            logits = self.module(images)
        except Exception as error:  # a user's module may raise anything
            said = (str(error).strip().splitlines() or [""])[0]
            raise UsageError(
                f"classifier {self.text!r} fails on images of shape {tuple(images.shape)}: "
                f"{type(error).__name__}: {said}"
            ) from error
        expected = len(images), self.classes
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        if found != expected:
            raise UsageError(
                f"classifier {self.text!r} returns {found} for images of shape {tuple(images.shape)}: "
                f"expected logits of shape {expected}"
            )
        return logits

    def follow(self, images: torch.Tensor) -> None:
        """Bring the module to the device and the dtype of these images."""
        form = images.device, images.dtype
        if form != self._form:
            self.module, self._form = self.module.to(*form), form

    def serialize(self, serializer: Any) -> None:
        """Hand the module's state and the hash of its source to `models.weights`, which makes the digest."""
        super().serialize(serializer)
        for name, tensor in self.module.state_dict().items():
            # Whatever dtype the last images had.
            plain = tensor.float() if tensor.is_floating_point() else tensor
            serializer(name, plain.cpu().numpy())
        serializer("source", np.frombuffer(self.source, np.uint8))


class _Logits(chainer.FunctionNode):  # type: ignore[misc]
    def __init__(self, link: TorchModule) -> None:
        self.link = link

    def forward(self, inputs: tuple[Array]) -> tuple[Array]:
        # Detached: the tensor is a leaf of its own, while its memory is that of the images.
        self.images = _tensor(inputs[0]).detach().requires_grad_()
        with torch.enable_grad():
            self.logits = self.link.answer(self.images)
        if not self.logits.requires_grad:
            raise UsageError(
                f"classifier {self.link.text!r} cuts its logits off from the images: "
                "expected a gradient, which no_grad, detach or whole numbers prevent"
            )
        return (_array(self.logits.detach()),)

    def backward(
        self, indexes: tuple[int, ...], grads: tuple[chainer.Variable]
    ) -> tuple[chainer.Variable]:
        (gy,) = grads
        if chainer.config.enable_backprop and gy.requires_grad:
            raise NotImplementedError("a torch classifier is differentiable once, not twice")
        # Chainer's graph may be walked twice, hence so may this one, which lives as long.
        (gx,) = torch.autograd.grad(self.logits, self.images, _tensor(gy.array), retain_graph=True)
        return (chainer.Variable(_array(gx)),)


def from_torch(text: str, *, channels: int, classes: int, size: int, seed: int) -> Classifier:
    """Build the classifier `torch:package.module:Name` or `torch:path/to/file.py:Name`.

    Name is a subclass of torch.nn.Module or a function that returns a module; it is called without
    arguments, and loads what weights it wants. What it draws, it draws from torch's generator seeded with
    `seed`.

    Args:
        text: the description.
        channels: C of the images; >= 1.
        classes: number of logits; >= 2.
        size: height and width of the images, in pixels.
        seed: 0 <= seed < 2**32.

    Raises:
        UsageError: it cannot be found or called so, or what it returns is no torch.nn.Module from images
            (N, channels, size, size) to logits (N, classes).
    """
    place = text.removeprefix("torch:")
    make = resolve(place, "classifier")
    if not callable(make):
        raise UsageError(f"classifier {text!r} is {make!r}: expected a class or a function")
    module = _made(text, make, seed)
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"classifier {text!r} returned {module!r}: expected a torch.nn.Module")
    return _frozen(text, module, _source(place), channels, classes, size)


def from_onnx(text: str, *, channels: int, classes: int, size: int, seed: int) -> Classifier:
    """Build the classifier `onnx:FILE`; arguments as for `from_torch`, the seed is not used.

    Raises:
        UsageError: the network has operators that have no counterpart here, or takes or gives something else.
        DataError: the file is missing or is no ONNX.
    """
    path = Path(text.removeprefix("onnx:"))
    return _frozen(text, load_onnx(path), path.read_bytes(), channels, classes, size)


def _made(text: str, make: Callable[[], Any], seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return make()
        except Exception as error:  # a user's function may raise anything
            raise UsageError(
                f"classifier {text!r} cannot be called without arguments: "
                f"{type(error).__name__}: {error}"
            ) from error


def _source(place: str) -> bytes:
    """Return the file where the user's code stands; nothing for what has no file, such as a builtin."""
    module = place.rpartition(":")[0]
    path = module if module.endswith(".py") else getattr(sys.modules[module], "__file__", None)
    with suppress(OSError, TypeError):
        return Path(path).read_bytes()  # type: ignore[arg-type]
    return b""


def _frozen(
    text: str, module: torch.nn.Module, source: bytes, channels: int, classes: int, size: int
) -> Classifier:
    link = TorchModule(text, module, classes, source)
    # Two images: a module that was made for one at a time is found out here.
    images = torch.full((2, channels, size, size), 0.5)
    with torch.no_grad():
        link.answer(images)
    if not bool((images == 0.5).all()):
        raise UsageError(
            f"classifier {text!r} writes into the images it is shown: expected a module that leaves them alone"
        )
    return freeze(Foreign(link, channels, classes, size))
