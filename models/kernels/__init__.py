"""Kernels: convolution, normalisation, ReLU and pooling under Chainer, by the fastest provider present.

    from models import kernels
    kernels.current()                    "torch", "numpy" or "chainer" (Chainer's own functions)
    with kernels.using("chainer"): ...

The environment variable `JIGSAW_KERNELS` chooses at start. A provider computes on plain arrays (see
`models.kernels.provider`); functions and links here are what networks use.
"""

from models.kernels.choice import available, current, is_whole, use, using
from models.kernels.functions import (
    add_relu,
    average_pooling_2d,
    channels_last,
    convolution_2d,
    deconvolution_2d,
    global_average,
    max_pooling_2d,
    pad,
    relu,
    scale_shift,
)
from models.kernels.links import (
    BatchNormalization,
    Convolution2D,
    Deconvolution2D,
    Identity,
    InstanceNormalization,
    layer,
)
from models.kernels.normalization import Statistics
from models.kernels.provider import Geometry, Provider, Window

__all__ = [
    "BatchNormalization",
    "Convolution2D",
    "Deconvolution2D",
    "Geometry",
    "Identity",
    "InstanceNormalization",
    "Provider",
    "Statistics",
    "Window",
    "add_relu",
    "available",
    "average_pooling_2d",
    "channels_last",
    "convolution_2d",
    "current",
    "deconvolution_2d",
    "global_average",
    "is_whole",
    "layer",
    "max_pooling_2d",
    "pad",
    "relu",
    "scale_shift",
    "use",
    "using",
]
