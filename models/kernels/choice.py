"""Which provider computes: the fastest one present, or the one that was named.

`JIGSAW_KERNELS=torch|numpy|chainer` names one for a process and those it starts.
"""

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from models.kernels.provider import Provider
from study.errors import UsageError
from study.provenance import register

__all__ = ["available", "current", "fallback", "is_whole", "provider", "use", "using"]

_VARIABLE = "JIGSAW_KERNELS"
# Fastest first, and the module each needs. `chainer` is Chainer as it was shipped, and needs none.
_PROVIDERS = {"torch": "torch", "numpy": "numpy", "chainer": "chainer"}


@cache
def available() -> tuple[str, ...]:
    """Return the names of the providers that are installed, fastest first."""
    return tuple(name for name, need in _PROVIDERS.items() if importlib.util.find_spec(need))


def current() -> str:
    """Return the name of the provider in use."""
    return str(_in_use.name)


def use(name: str) -> None:
    """Let `name` compute from now on, in this process.

    A backward pass is computed by the provider of its forward pass.

    Args:
        name: one of `available()`.

    Raises:
        UsageError: there is no such provider, or what it needs is not installed.
    """
    _in_use.name = _checked(name, "kernels are")


@contextmanager
def using(name: str) -> Iterator[None]:
    """Let `name` compute inside the `with` block; see `use`."""
    before = current()
    use(name)
    try:
        yield
    finally:
        use(before)


def provider(array: Any) -> Provider | None:
    """Return what computes on `array`; None for Chainer's own functions."""
    name = _in_use.name
    if name == "chainer" or not (isinstance(array, np.ndarray) or _on_gpu(name)):
        return None
    return _loaded(name)


def is_whole(x: Any) -> bool:
    """Return whether what does not change computes `x`, an array or a Variable, as one function of PyTorch's."""
    array = getattr(x, "array", x)
    return _in_use.name == "torch" and (isinstance(array, np.ndarray) or _on_gpu("torch"))


def fallback(array: Any) -> Provider:
    """Return a provider that is always there, for what Chainer has no function for.

    Raises:
        UsageError: the array is on a GPU, where none is always there.
    """
    if not isinstance(array, np.ndarray):
        raise UsageError(
            "batch normalisation over several ranks on GPUs needs PyTorch's kernels: install a torch "
            "that is built for CUDA, or choose JIGSAW_DEVICE=cpu"
        )
    return _loaded("numpy")


@cache
def _on_gpu(name: str) -> bool:
    """Whether the provider computes on GPUs; PyTorch's build for processors does not."""
    return name == "torch" and bool(importlib.import_module("torch").cuda.is_available())


@cache
def _loaded(name: str) -> Provider:
    return cast(Provider, importlib.import_module(f"models.kernels.{name}_provider"))


def _checked(name: str, what: str) -> str:
    if name in available():
        return name
    if name in _PROVIDERS:
        raise UsageError(
            f"{what} {name!r}, which is not installed: run `pip install 'jigsaw[{name}]'`, "
            f"or choose {' or '.join(available())}"
        )
    raise UsageError(f"{what} {name!r}; allowed: {', '.join(available())}")


def _at_start() -> str:
    named = os.environ.get(_VARIABLE)
    return _checked(named, f"{_VARIABLE} is") if named else available()[0]


def _facts() -> dict[str, Any]:
    return {"provider": current(), "installed": ", ".join(available())}


_in_use = SimpleNamespace(name=_at_start())
register("kernels", _facts)
