"""Where Chainer and ChainerMN compute wrongly, stop, or trust too much on today's NumPy."""

import importlib
import threading
import types
from collections.abc import Sequence
from typing import Any

import numpy as np

from study.errors import DataError

__all__ = [
    "accept_one_element_counts",
    "accept_variables_as_shapes",
    "cast_unpacked_gradients",
    "refuse_pickles",
    "set_daemon_by_attribute",
    "silence_experimental_warnings",
]


def _module(name: str) -> Any:
    return importlib.import_module(name)


def accept_variables_as_shapes() -> None:
    """Give deconvolution_2d's backward shapes where it passes Variables.

    It does so only when x needs no gradient, and unpacking a Variable of batch != 4 then fails.
    """
    module = _module("chainer.functions.connection.deconvolution_2d")
    set_cover_all = module.Deconvolution2DFunction._set_cover_all

    def of_shapes(self: Any, x: Any, W: Any) -> None:
        set_cover_all(self, getattr(x, "shape", x), getattr(W, "shape", W))

    module.Deconvolution2DFunction._set_cover_all = of_shapes


def refuse_pickles() -> None:
    """`chainer.serializers.load_npz` unpickles what a file tells it to, which runs foreign code.

    Arrays do not need it. What is lost: Chainer writes None, the value of a parameter whose shape
    is not known yet, as a pickle; such a file now raises DataError.
    """
    npz = _module("chainer.serializers.npz")
    read = npz.NpzDeserializer.__call__

    def read_arrays(self: Any, key: str, value: Any) -> Any:
        try:
            return read(self, key, value)
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
            name = self.path + key.lstrip("/")
            message = f"entry {name!r} is a pickled object, and only plain arrays are loaded"
            raise DataError(message) from error

    npz._allow_pickle_kwargs["allow_pickle"] = False
    npz.NpzDeserializer.__call__ = read_arrays


def set_daemon_by_attribute() -> None:
    """MultiprocessIterator calls `Thread.setDaemon`, deprecated since Python 3.10, per epoch."""

    class Thread(threading.Thread):
        def setDaemon(self, daemonic: bool) -> None:  # noqa: N802 (the name it is called by)
            self.daemon = daemonic

    module = _module("chainer.iterators.multiprocess_iterator")
    module.threading = types.SimpleNamespace(**{**vars(threading), "Thread": Thread})


def accept_one_element_counts() -> None:
    """Let the multi-node iterator read the size it received as an array of shape (1,).

    NumPy 2.4 refuses `int()` of it (1.25 to 2.3 warn), and while the receiving rank raises, the
    master waits for ever.
    """
    module = _module("chainermn.iterators.multi_node_iterator")
    module.int = lambda value: int(np.asarray(value).item())


def cast_unpacked_gradients() -> None:
    """Unpack a communication buffer whose dtype is not the gradient's (float16 for float32).

    ChainerMN asks `array(copy=False)` for the cast copy, which NumPy 2 and CuPy 14 refuse.
    """
    module = _module("chainermn.communicators._memory_utility")
    module.unpack_params = _unpack_params


def _unpack_params(  # noqa: PLR0917 (ChainerMN passes them by position)
    params: Sequence[Any],
    attr_name: str,
    buffer: Any,
    transfer_dtype: Any,
    zero_fill: bool,
    stream: Any = None,
) -> None:
    offset = 0
    for param in params:
        if attr_name == "grad" and param.grad is None and zero_fill:
            param.grad = param.xp.empty_like(param.data)
        kept = getattr(param, attr_name)
        received = kept if kept.dtype == transfer_dtype else kept.astype(transfer_dtype)
        buffer.to_device(received, received.nbytes, offset, stream)
        offset += received.nbytes
        if received is not kept:
            kept[...] = received.astype(kept.dtype)


def silence_experimental_warnings() -> None:
    """Tell Chainer not to warn that ChainerMN is experimental: it is as final as it gets."""
    _module("chainer").disable_experimental_feature_warning = True
