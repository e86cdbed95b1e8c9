"""Where arrays live while networks compute: with NumPy on processors, or with CuPy on this rank's GPU.

`--device cuda`, or JIGSAW_DEVICE=cuda, chooses. A rank takes the GPU of its number on its host; where there
are fewer GPUs than ranks, ranks take turns. Files, pictures, messages and tables are NumPy's in any case.
"""

import os
from functools import cache
from typing import Any, TypeVar

import chainer
import numpy as np
from numpy.typing import NDArray

from study.errors import UsageError
from study.provenance import register

__all__ = ["current", "home", "local_rank", "send"]

T = TypeVar("T")
_VARIABLE = "JIGSAW_DEVICE"
# Set by Hydra (MPICH, Intel MPI), Open MPI and Slurm to a rank's number on its host.
_LOCAL_RANKS = ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")


def current() -> chainer.backend.Device:
    """Return the device in use.

    Raises:
        UsageError: there is no such device, or what it needs is not installed.
    """
    return _device(_name(), local_rank())


def send(what: T) -> T:
    """Return an array, or a link with all its arrays, on the device in use; itself where it is there.

    Raises:
        UsageError: see `current`.
    """
    if isinstance(what, chainer.Link):
        return what.to_device(current())  # type: ignore[no-any-return]
    sent: T = current().send(what)
    return sent


def home(array: Any) -> NDArray[Any]:
    """Return an array of any device as NumPy's; itself where it is."""
    arrived: NDArray[Any] = chainer.backend.CpuDevice().send(array)
    return arrived


def local_rank() -> int:
    """Return this rank's number among those of its host, >= 0; 0 where no launcher says."""
    return next((int(os.environ[name]) for name in _LOCAL_RANKS if name in os.environ), 0)


def _name() -> str:
    return os.environ.get(_VARIABLE) or "cpu"


@cache
def _device(name: str, rank: int) -> chainer.backend.Device:
    if name not in ("cpu", "cuda"):
        raise UsageError(f"{_VARIABLE} is {name!r}; allowed: cpu, cuda")
    if name == "cpu":
        return chainer.backend.CpuDevice()
    device = chainer.get_device(f"@cupy:{rank % _gpus()}")
    device.use()
    return device


def _gpus() -> int:
    try:
        import cupy

        count = int(cupy.cuda.runtime.getDeviceCount())
    except ImportError as error:
        raise UsageError(
            f"device is 'cuda', which needs CuPy ({error}): run `pip install 'jigsaw[cuda13]'`, or "
            "'jigsaw[cuda12]' for CUDA 12; without it allowed: cpu"
        ) from None
    except RuntimeError as error:
        raise UsageError(
            f"device is 'cuda', and CuPy finds no GPU ({error}); allowed here: cpu"
        ) from None
    if not chainer.backends.cuda.available:
        why = chainer.backends.cuda._resolution_error
        raise UsageError(
            f"device is 'cuda', and Chainer cannot use CuPy {cupy.__version__} ({why}); allowed here: cpu"
        )
    return count


def _facts() -> dict[str, Any]:
    return {"arrays": _described(), "local rank": local_rank()}


def _described() -> str:
    if _name() == "cpu":
        return "cpu"
    try:
        number = current().device.id
    except UsageError as error:
        return str(error)
    properties = chainer.backends.cuda.cupy.cuda.runtime.getDeviceProperties(number)
    return f"cuda:{number}, {np.char.decode(properties['name'])}"


register("device", _facts)
