"""Where Chainer and ChainerMN compute wrongly, stop, or trust too much on today's NumPy."""

import importlib
import threading
import types
from collections.abc import Sequence
from typing import Any

import numpy as np

from study.errors import DataError, UsageError

__all__ = [
    "accept_one_element_counts",
    "accept_variables_as_shapes",
    "add_where_items_were_taken",
    "cast_unpacked_gradients",
    "fold_padding_gradients",
    "refuse_pickles",
    "set_daemon_by_attribute",
    "silence_experimental_warnings",
    "silence_missing_cudnn",
]


def _module(name: str) -> Any:
    return importlib.import_module(name)


def accept_variables_as_shapes() -> None:
    """Give deconvolution_2d's backward shapes where it passes Variables.

    It does so only when x needs no gradient; unpacking four sizes from a batch then fails.
    """
    module = _module("chainer.functions.connection.deconvolution_2d")
    set_cover_all = module.Deconvolution2DFunction._set_cover_all

    def of_shapes(self: Any, x: Any, W: Any) -> None:
        set_cover_all(self, getattr(x, "shape", x), getattr(W, "shape", W))

    module.Deconvolution2DFunction._set_cover_all = of_shapes


def add_where_items_were_taken() -> None:
    """Give indexing its gradient by `add.at` on a GPU, too, where CuPy 14 deprecates `scatter_add`."""
    module = _module("chainer.functions.array.get_item")
    on_processor = module.GetItemGrad.forward

    def forward(self: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        xp = module.backend.get_array_module(*inputs)
        if xp is np:
            return on_processor(self, inputs)  # type: ignore[no-any-return]
        gx = xp.zeros(self._in_shape, inputs[0].dtype)
        xp.add.at(gx, tuple(self.slices), inputs[0])
        return (gx,)

    module.GetItemGrad.forward = forward


# Modes in which every padded value is a fixed weighted sum of the values inside.
_LINEAR_PADDINGS = ("edge", "mean", "reflect", "symmetric", "wrap")


def fold_padding_gradients() -> None:
    """Give F.pad its true gradient in modes other than "constant".

    Chainer crops the gradient of the padded array in every mode, which loses what the border owes
    to the values it was copied from, and says nothing.
    """
    pad = _module("chainer.functions.array.pad").Pad
    crop = pad.backward

    def backward(self: Any, indexes: Any, grad_outputs: Any) -> Any:
        if self.mode == "constant":
            return crop(self, indexes, grad_outputs)
        if self.mode not in _LINEAR_PADDINGS:
            allowed = ", ".join(("constant", *_LINEAR_PADDINGS))
            raise UsageError(f"F.pad of mode {self.mode!r} has no gradient: allowed are {allowed}")
        return (_fold(grad_outputs[0], self),)

    pad.backward = backward


def _fold(gy: Any, pad: Any) -> Any:
    """Transpose `pad`, one axis at a time: an axis is padded by a matrix, which pads the identity."""
    functions = _module("chainer.functions")
    shape = pad.inputs[0].shape
    widths = np.broadcast_to(pad.pad_bw, (len(shape), 2))
    for axis, (size, width) in enumerate(zip(shape, widths, strict=True)):
        if width.any():
            matrix = np.pad(np.eye(size), [(0, 0), tuple(width)], pad.mode, **pad.keywords)
            weights = gy.xp.asarray(matrix, dtype=gy.dtype)
            gy = functions.moveaxis(functions.tensordot(gy, weights, (axis, 1)), -1, axis)
    return gy


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


def _unpack_params(
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
        same = kept.dtype == transfer_dtype
        received = kept if same else param.xp.empty_like(kept, dtype=transfer_dtype)
        buffer.to_device(received, received.nbytes, offset, stream)
        offset += received.nbytes
        if not same:
            kept[...] = received.astype(kept.dtype)


def silence_experimental_warnings() -> None:
    """Tell Chainer not to warn that ChainerMN is experimental: it is as final as it gets."""
    _module("chainer").disable_experimental_feature_warning = True


def silence_missing_cudnn() -> None:
    """Chainer warns, where CuPy has no cuDNN, to reinstall it; CuPy 14 has none to install.

    Convolutions come from PyTorch's kernels there, which bring their own.
    """
    _module("chainer.backends.cuda").check_cuda_available._already_warned = True
