"""The NumPy kernels' own branches: blocks, residues of a stride, groups; see test_kernels.py for the rest."""

from collections.abc import Callable
from typing import Any

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import chainer.functions as F
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.kernels import numpy_convolution, numpy_provider
from models.kernels.numpy_convolution import Line, blocks, residues, window
from models.kernels.provider import Geometry, Provider, Window

Array = NDArray[Any]
Pair = tuple[int, int]
PROVIDER: Provider = numpy_provider


def random(*shape: int, dtype: str = "d") -> Array:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(dtype)


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


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Array, Array, Array | None, Geometry]:
    pair = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))  # noqa: E731
    kernel, dilate = draw(pair(1, 4)), draw(pair(1, 3))
    pad = draw(pair(0, 3))
    least = [max(d * (k - 1) + 1 - 2 * p, 1) for d, k, p in zip(dilate, kernel, pad, strict=True)]
    size = [low + draw(st.integers(0, 6)) for low in least]
    groups, own, given_ = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    x = random(draw(st.integers(0, 3)), groups * given_, *size)
    weight = random(groups * own, given_, *kernel)
    bias = draw(st.sampled_from([None, random(groups * own)]))
    return x, weight, bias, Geometry(draw(pair(1, 4)), pad, dilate, groups)


@settings(max_examples=150, deadline=None)
@given(convolutions())
def test_every_geometry(case: tuple[Array, Array, Array | None, Geometry]) -> None:
    if len(case[0]):
        check(*case)
    else:
        y = PROVIDER.convolution(*case)
        assert y.size == 0
        gw = PROVIDER.convolution_weight_gradient(case[0], y, case[3], case[1].shape[2:])
        assert gw.shape == case[1].shape
        assert not gw.any()


@pytest.mark.parametrize("groups", [1, 2, 4], ids=["dense", "grouped", "depthwise"])
@pytest.mark.parametrize("block", [1, 3000, 10**9], ids=["rows", "some images", "all images"])
@pytest.mark.parametrize("stride", [1, 2])
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


@pytest.mark.parametrize("layout", ["first", "last", "strided", "reversed", "repeated"])
def test_layouts_change_nothing(layout: str) -> None:
    x = random(4, 6, 8, 8)
    given_: Array = {
        "first": x,
        "last": np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        "strided": x[:, ::2, ::2, 1::2],
        "reversed": x[:, ::-1, :, ::-1],
        "repeated": np.broadcast_to(x[:1, :, :1], (4, 6, 5, 8)),
    }[layout]
    check(given_, random(2, given_.shape[1], 3, 3), random(2), Geometry())


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


@pytest.mark.parametrize("dtype", ["f", "d"])
@pytest.mark.parametrize(
    "kernel",
    [
        PROVIDER.relu,
        lambda x: PROVIDER.relu_gradient(x, x),
        lambda x: PROVIDER.max_pooling(x, Window((2, 2), (2, 2)))[0],
        lambda x: PROVIDER.average_pooling(x, Window((2, 2), (2, 2))),
        lambda x: PROVIDER.average_pooling_gradient(x, Window((1, 1), (2, 2)), (11, 9)),
        lambda x: PROVIDER.scale_shift(x, x[0, :, 0, 0], x[1, :, 0, 0]),
        lambda x: PROVIDER.combine(x, x, *x[:3, :, 0, 0]),
    ],
    ids=["relu", "relu'", "max", "average", "average'", "scale", "combine"],
)
def test_type_and_layout_are_kept(kernel: Callable[[Array], Array], dtype: str) -> None:
    y = kernel(np.ascontiguousarray(random(4, 6, 5, 3, dtype=dtype)).transpose(0, 3, 1, 2))
    assert y.dtype == dtype
    assert channels_last(y)


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


def test_the_variance_does_not_cancel() -> None:
    x = random(64, 4, 16, 16, dtype="f") + np.float32(3000)
    _, var = PROVIDER.moments(x, per_image=False)
    np.testing.assert_allclose(var, x.astype("d").var(axis=(0, 2, 3)), rtol=1e-4)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_pooling(data: st.DataObject) -> None:
    pair = lambda low, high: data.draw(  # noqa: E731
        st.tuples(st.integers(low, high), st.integers(low, high))
    )
    kernel = pair(1, 4)
    pad = pair(0, min(kernel) - 1)
    over = Window(kernel, pair(1, 4), pad, data.draw(st.booleans()))
    x = np.round(random(2, 3, *pair(4, 9)))  # ties: the first of them counts
    variable = chainer.Variable(x)
    y, where = PROVIDER.max_pooling(x, over)
    shipped = F.max_pooling_2d(variable, kernel, over.stride, pad, over.cover_all)
    np.testing.assert_array_equal(y, shipped.array)
    gy = random(*y.shape)
    shipped.grad = gy
    shipped.backward()
    np.testing.assert_allclose(PROVIDER.max_pooling_gradient(gy, x, where, over), variable.grad)
    even = Window(kernel, over.stride, pad)
    mean = PROVIDER.average_pooling(x, even)
    np.testing.assert_allclose(
        mean, F.average_pooling_2d(x, kernel, over.stride, pad).array, atol=1e-12
    )
    gy = random(*mean.shape)
    gx = PROVIDER.average_pooling_gradient(gy, even, x.shape[2:])
    np.testing.assert_allclose(np.vdot(gx, x), np.vdot(gy, mean), atol=1e-12)
