"""What the NumPy kernels are made of: blocks, residues, windows. test_kernels.py tests what they compute."""

from typing import Any

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer.functions as F
import numpy as np
import pytest
from numpy.typing import NDArray

from models.kernels import numpy_convolution, numpy_provider
from models.kernels.numpy_convolution import Line, blocks, residues, window
from models.kernels.provider import Geometry, Provider

Array = NDArray[Any]
Pair = tuple[int, int]
PROVIDER: Provider = numpy_provider


def random(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).normal(size=shape)


def channels_last(x: Array) -> bool:
    return bool(x.transpose(0, 2, 3, 1).flags.c_contiguous)


def check(x: Array, weight: Array, bias: Array | None, geometry: Geometry) -> None:
    """The forward pass is Chainer's; with it, the gradients are pinned by one trilinear form."""
    k, g = PROVIDER, geometry
    y = k.convolution(x, weight, bias, geometry)
    shipped = F.convolution_2d(x, weight, bias, g.stride, g.pad, dilate=g.dilate, groups=g.groups)
    assert y.dtype == x.dtype
    assert channels_last(y)
    np.testing.assert_allclose(y, shipped.array, atol=1e-10)
    gy = random(*y.shape)
    gx = k.convolution_input_gradient(gy, weight, None, geometry, x.shape[2:])
    gw = k.convolution_weight_gradient(x, gy, geometry, weight.shape[2:])
    assert gx.shape == x.shape
    assert channels_last(gx)
    assert gw.flags.c_contiguous
    form = np.vdot(gy, y if bias is None else y - bias[:, None, None])
    np.testing.assert_allclose([np.vdot(gx, x), np.vdot(gw, weight)], form, atol=1e-8)


@pytest.mark.parametrize("groups", [1, 2, 4], ids=["dense", "grouped", "depthwise"])
@pytest.mark.parametrize("block", [1, 3000, 10**9], ids=["rows", "some images", "all images"])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_blocks_change_nothing(
    block: int, groups: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numpy_convolution, "_BLOCK", block)
    geometry = Geometry((stride, stride), (1, 1), groups=groups)
    check(random(5, 4, 7, 6), random(4, 4 // groups, 3, 3), random(4), geometry)


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (10, [(n, r) for n in (0, 1, 2) for r in ((0, 1), (1, 2), (2, 3))]),
        (25, [(n, r) for n in (0, 1, 2) for r in ((0, 2), (2, 3))]),
        (30, [(0, (0, 3)), (1, (0, 3)), (2, (0, 3))]),
        (69, [(0, (0, 3)), (2, (0, 3))]),
        (90, [(0, (0, 3))]),
    ],
)
def test_blocks_fit_the_cache(
    block: int, expected: list[tuple[int, Pair]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numpy_convolution, "_BLOCK", block)
    assert [(images.start, rows) for images, rows in blocks(3, 3, 10)] == expected


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("dilate", [1, 2, 4])
@pytest.mark.parametrize("pad", [0, 1, 4])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_residues_find_every_pair(stride: int, pad: int, dilate: int, kernel: int) -> None:
    size, outputs = 11, range(-20, 20)
    pairs = {(stride * o + dilate * a - pad, o, a) for o in outputs for a in range(kernel)}
    found = []
    for residue in residues(stride, pad, dilate, kernel, size):
        line = residue.line
        if line is not None:
            pixels = range(size)[residue.pixels]
            assert line.size == len(pixels)
            found += [
                (pixel, line.start + t + line.step * i, a)
                for t, pixel in enumerate(pixels)
                for i, a in enumerate(residue.elements)
            ]
    assert sorted(found) == sorted(p for p in pairs if 0 <= p[0] < size)


@pytest.mark.parametrize("start", [-9, -2, 0, 1, 4, 9])
def test_a_window_may_lie_anywhere(start: int) -> None:
    x = random(2, 5, 6, 3)
    line, across = Line(start, 1, 1, 1, 4), Line(1, 2, 1, 1, 2)
    grown = np.pad(x, ((0, 0), (20, 20), (0, 0), (0, 0)), constant_values=7)
    expected = grown[:, 20 + start : 24 + start, 1:4]
    assert np.array_equal(window(x, line, across, outside=7), expected)


@pytest.mark.parametrize("per_image", [False, True], ids=["batch", "image"])
@pytest.mark.parametrize("block", [1, 400, 10**9])
def test_normalisation(block: int, per_image: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_convolution, "_BLOCK", block)
    x, gy = random(5, 3, 4, 6) + 2, random(5, 3, 4, 6)
    axes = (2, 3) if per_image else (0, 2, 3)
    mean, var = PROVIDER.moments(x, per_image)
    np.testing.assert_allclose(mean, x.mean(axis=axes))
    np.testing.assert_allclose(var, x.var(axis=axes))
    inv_std = 1 / np.sqrt(var)
    along_one, along_x = PROVIDER.normalization_sums(gy, x, mean, inv_std)
    x_hat = (x - mean[..., None, None]) * inv_std[..., None, None]
    np.testing.assert_allclose(along_one, gy.sum(axis=axes))
    np.testing.assert_allclose(along_x, (gy * x_hat).sum(axis=axes))
    combined = PROVIDER.combine(gy, x, mean, var, inv_std)
    a, b, c = (k[..., None, None] for k in (mean, var, inv_std))
    np.testing.assert_allclose(combined, gy * a + x * b + c)
    np.testing.assert_allclose(PROVIDER.scale_shift(x, mean, var), x * a + b)
