"""Arrays as tensors and back, without a copy: NumPy's on a processor, CuPy's on a GPU.

CuPy and PyTorch both work on the default stream, where what was asked for first is done first, so nobody has to wait
when memory changes hands. Asked politely, each would record and await an event: tens of microseconds, hundreds of
times a training step.
"""

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.dlpack import to_dlpack

__all__ = ["array", "tensor"]

# Of DLPack: the owner need not wait for anybody.
_NO_WAIT = -1
_CUDA = 2


def tensor(array: NDArray[Any]) -> torch.Tensor:
    """Return a tensor on the memory of `array`; on a copy, where torch cannot look at it or must not write to it."""
    if not isinstance(array, np.ndarray):
        return torch.from_dlpack(array.__dlpack__(stream=_NO_WAIT))
    try:
        return torch.from_numpy(array if array.flags.writeable else array.copy("K"))
    except ValueError:  # negative strides, which torch has not
        return torch.from_numpy(np.ascontiguousarray(array))


def array(tensor: torch.Tensor) -> NDArray[Any]:
    """Return an array on the memory of `tensor`, which must need no gradient."""
    if tensor.device.type == "cpu":
        shared: NDArray[Any] = tensor.numpy()
    else:
        shared = _cupy().from_dlpack(_Lent(tensor))
    return shared


class _Lent:
    """A tensor on a GPU, as CuPy asks for it; see above for who waits."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def __dlpack__(self, **_: Any) -> Any:
        return to_dlpack(self._tensor)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA, self._tensor.device.index


@functools.cache
def _cupy() -> Any:
    import cupy

    return cupy
