"""The contract of every provider of kernels: what Chainer's own functions compute, in any layout."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import chainer.functions as F
import chainer.links as L
import numpy as np
import pytest
from chainer import gradient_check
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import kernels
from models.classifiers import build, freeze
from models.kernels import choice
from models.kernels.provider import Geometry, Window
from study.errors import UsageError
from study.provenance import provenance

NAMES = ("torch", "numpy", "chainer")


@pytest.fixture(params=NAMES)
def provider(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each provider in turn, in use."""
    if request.param not in kernels.available():
        pytest.skip(f"{request.param} is not installed")
    with kernels.using(request.param):
        yield request.param


class Case(NamedTuple):
    """A function of arrays of these shapes; what is drawn for them is normal."""

    function: Callable[..., chainer.Variable]
    shapes: tuple[tuple[int, ...], ...]


def normalised(link: type[chainer.Link], relu: bool) -> Callable[..., chainer.Variable]:
    def function(x: Any, gamma: Any, beta: Any) -> chainer.Variable:
        made = link(x.shape[1]).to_device(chainer.as_variable(x).device)
        # Chainer looks its parameters up by attribute: what is differentiated takes their place.
        vars(made).update(gamma=gamma, beta=beta)
        return made(x, relu)

    return function


def in_test(function: Callable[..., chainer.Variable]) -> Callable[..., chainer.Variable]:
    def run(*inputs: Any) -> chainer.Variable:
        with chainer.using_config("train", False):
            return function(*inputs)

    return run


IMAGE = (3, 4, 7, 6)
CASES = {
    "convolution": Case(
        lambda x, W, b: kernels.convolution_2d(x, W, b, Geometry((2, 1), (1, 2))),
        (IMAGE, (6, 4, 3, 2), (6,)),
    ),
    "convolution-relu": Case(
        lambda x, W, b: kernels.convolution_2d(x, W, b, Geometry(pad=(1, 1)), relu=True),
        (IMAGE, (5, 4, 3, 3), (5,)),
    ),
    "convolution-grouped": Case(
        lambda x, W: kernels.convolution_2d(x, W, None, Geometry(pad=(1, 1), groups=2)),
        (IMAGE, (6, 2, 3, 3)),
    ),
    "convolution-depthwise": Case(
        lambda x, W: kernels.convolution_2d(x, W, None, Geometry((2, 2), (1, 1), groups=4)),
        (IMAGE, (4, 1, 3, 3)),
    ),
    "convolution-dilated": Case(
        lambda x, W: kernels.convolution_2d(x, W, None, Geometry(dilate=(2, 3))),
        (IMAGE, (2, 4, 3, 2)),
    ),
    "convolution-of-one-pixel": Case(kernels.convolution_2d, ((2, 3, 1, 1), (4, 3, 1, 1), (4,))),
    "deconvolution": Case(
        lambda x, W, b: kernels.deconvolution_2d(x, W, b, Geometry((2, 2), (1, 1))),
        (IMAGE, (4, 5, 4, 4), (5,)),
    ),
    "deconvolution-relu": Case(
        lambda x, W, b: kernels.deconvolution_2d(
            x, W, b, Geometry((2, 2), (1, 1), groups=2), (14, 12), relu=True
        ),
        (IMAGE, (4, 3, 3, 3), (6,)),
    ),
    "relu": Case(kernels.relu, (IMAGE,)),
    "relu-of-rows": Case(kernels.relu, ((3, 5),)),
    "add-relu": Case(kernels.add_relu, (IMAGE, IMAGE)),
    "scale-shift": Case(
        lambda x: kernels.scale_shift(
            x, *chainer.as_variable(x).device.send((np.arange(4) - 1.5, np.arange(4) * 0.1))
        ),
        (IMAGE,),
    ),
    "max-pooling": Case(
        lambda x: kernels.max_pooling_2d(x, Window((2, 2), (2, 2), cover_all=True)), (IMAGE,)
    ),
    "max-pooling-padded": Case(
        lambda x: kernels.max_pooling_2d(x, Window((3, 2), (2, 1), (1, 1))), (IMAGE,)
    ),
    "average-pooling": Case(
        lambda x: kernels.average_pooling_2d(x, Window((3, 2), (2, 2), (1, 0))), (IMAGE,)
    ),
    "global-average": Case(kernels.global_average, (IMAGE,)),
    "pad": Case(lambda x: kernels.pad(x, (0, 1), (2, 0)), (IMAGE,)),
    "pad-channels": Case(lambda x: kernels.pad(x, channels=(1, 2), every=2), (IMAGE,)),
    "batch-norm": Case(normalised(kernels.BatchNormalization, False), (IMAGE, (4,), (4,))),
    "batch-norm-relu": Case(normalised(kernels.BatchNormalization, True), (IMAGE, (4,), (4,))),
    "batch-norm-in-test": Case(
        in_test(normalised(kernels.BatchNormalization, True)), (IMAGE, (4,), (4,))
    ),
    "instance-norm": Case(normalised(kernels.InstanceNormalization, False), (IMAGE, (4,), (4,))),
    "instance-norm-relu": Case(
        normalised(kernels.InstanceNormalization, True), (IMAGE, (4,), (4,))
    ),
}
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def draws(case: Case, dtype: Any = np.float64, images: int | None = None) -> list[np.ndarray]:
    """Draw the inputs; `images` is the batch size of all that is no kernel."""
    rng = np.random.default_rng(len(case.shapes))
    shapes = list(case.shapes)
    if images is not None:
        shapes = [(images, *s[1:]) if s in (shapes[0], IMAGE) else s for s in shapes]
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def same(x: np.ndarray) -> np.ndarray:
    return x


def last(x: np.ndarray) -> np.ndarray:
    return kernels.channels_last(x) if x.ndim == 4 else x


def computed(
    case: Case, inputs: list[np.ndarray], layout: Callable[[np.ndarray], np.ndarray] = same
) -> list[np.ndarray]:
    """Return the value and the gradients of all inputs, of a sum of outputs with uneven weights."""
    inputs = [layout(x) for x in inputs]
    with chainer.using_config("dtype", inputs[0].dtype):
        variables = [chainer.Variable(x) for x in inputs]
        y = case.function(*variables)
        y.grad = layout(np.random.default_rng(9).normal(size=y.shape).astype(y.dtype))
        y.backward()
    return [y.array, *(v.grad for v in variables)]


def chainers(case: Case, inputs: list[np.ndarray]) -> list[np.ndarray]:
    with kernels.using("chainer"):
        return computed(case, inputs)


def assert_close(found: list[np.ndarray], expected: list[np.ndarray], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        scale = np.abs(other).max(initial=1.0)
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * scale)


# ---- laws of every function


@every
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_it_is_what_chainer_computes(provider, case, dtype, tolerance) -> None:
    inputs = draws(case, dtype)
    assert_close(computed(case, inputs), chainers(case, inputs), tolerance)


@every
def test_gradients_equal_differences(provider, case) -> None:
    inputs = draws(case)
    with chainer.using_config("dtype", np.dtype(np.float64)):
        gy = np.random.default_rng(3).normal(
            size=case.function(*map(chainer.Variable, inputs)).shape
        )
        gradient_check.check_backward(
            case.function, tuple(inputs), gy, eps=1e-6, atol=1e-5, rtol=1e-5
        )


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def strided(x: np.ndarray) -> np.ndarray:
    """The same numbers in every other place of a larger array."""
    larger = np.full([n * 2 for n in x.shape], np.nan, x.dtype)
    view = larger[tuple(slice(None, None, 2) for _ in x.shape)]
    view[...] = x
    return view


LAYOUTS = {
    "channels-last": last,
    "strided": strided,
    "reversed": lambda x: np.ascontiguousarray(np.flip(x))[tuple([slice(None, None, -1)] * x.ndim)],
    "fortran": np.asfortranarray,
    "read-only": read_only,
}


@every
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_memory_layout_does_not_change_the_numbers(provider, case, layout) -> None:
    inputs = draws(case)
    assert_close(computed(case, inputs, layout), computed(case, inputs), 1e-13)


@every
def test_images_come_out_with_channels_last(case) -> None:
    for provider in {"torch", "numpy"} & set(kernels.available()):
        with kernels.using(provider):
            y, gx, *_ = computed(case, draws(case), last)
        for image in (y, gx):
            if image.ndim == 4:
                assert image.transpose(0, 2, 3, 1).flags.c_contiguous, provider


@every
def test_an_empty_batch_has_an_empty_result(case) -> None:
    """Chainer's own functions fail on some."""
    for provider in {"torch", "numpy"} & set(kernels.available()):
        inputs = draws(case, images=0)
        with kernels.using(provider), np.errstate(all="raise"):
            y, *gradients = computed(case, inputs)
        assert len(y) == 0
        for gradient, x in zip(gradients, inputs, strict=True):
            assert gradient.shape == x.shape
            assert not gradient.any()


@every
def test_the_same_numbers_give_the_same_bits_and_stay_as_they_are(provider, case) -> None:
    inputs = draws(case, np.float32)
    before = [x.copy() for x in inputs]
    for one, other in zip(computed(case, inputs), computed(case, inputs), strict=True):
        np.testing.assert_array_equal(one, other)
    for given_, kept in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(given_, kept)


@every
def test_a_second_derivative_is_refused_except_by_chainer(provider, case) -> None:
    x, *rest = (chainer.Variable(a) for a in draws(case))
    with chainer.using_config("dtype", np.dtype(np.float64)):
        y = F.sum(case.function(x, *rest) ** 2)
    if provider == "chainer":
        chainer.grad([y], [x], enable_double_backprop=True)
        return
    if case.function is CASES["batch-norm-in-test"].function:
        return  # Chainer's own arithmetic, with all it can do
    with pytest.raises(NotImplementedError, match=r"differentiable once, not twice: .*=chainer"):
        chainer.grad([y], [x], enable_double_backprop=True)


# ---- convolutions of any geometry

pair = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Geometry, tuple[int, ...], tuple[int, ...]]:
    """Draw a geometry, the shape of x and that of W."""
    stride, dilate, kernel = draw(pair), draw(pair), draw(pair)
    pad = tuple(draw(st.integers(0, 2)) for _ in range(2))
    groups, per_group, out = (draw(st.integers(1, 3)) for _ in range(3))
    smallest = [
        max(d * (k - 1) + 1 - 2 * p, 1) for d, k, p in zip(dilate, kernel, pad, strict=True)
    ]
    size = (n + draw(st.integers(0, 5)) for n in smallest)
    geometry = Geometry(stride, pad, dilate, groups)
    images = draw(st.integers(1, 3))
    return geometry, (images, groups * per_group, *size), (groups * out, per_group, *kernel)


@pytest.mark.parametrize("bias", [False, True])
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(drawn=convolutions())
def test_convolutions_of_any_geometry(provider, bias, drawn) -> None:
    geometry, shape, kernel = drawn
    shapes = (shape, kernel, (kernel[0],))[: 2 + bias]
    case = Case(lambda x, W, b=None: kernels.convolution_2d(x, W, b, geometry), shapes)
    inputs = draws(case)
    assert_close(computed(case, inputs), chainers(case, inputs), 1e-11)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(drawn=convolutions())
def test_a_deconvolution_is_the_transpose_of_its_convolution(provider, drawn) -> None:
    geometry, shape, kernel = drawn
    rng = np.random.default_rng(0)
    x, W = chainer.Variable(rng.normal(size=shape)), rng.normal(size=kernel)
    y = kernels.convolution_2d(x, W, None, geometry)
    gy = rng.normal(size=y.shape)
    size = x.shape[2:]
    up = Case(lambda v, w: kernels.deconvolution_2d(v, w, None, geometry, size), (gy.shape, kernel))
    found = up.function(gy, W)
    assert found.shape == x.shape
    assert (found.array * x.array).sum() == pytest.approx((y.array * gy).sum(), abs=1e-9)
    inputs = draws(up)
    assert_close(computed(up, inputs), chainers(up, inputs), 1e-11)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    size=st.tuples(st.integers(3, 8), st.integers(3, 8)), kernel=pair, stride=pair,
    padded=st.tuples(st.booleans(), st.booleans()), cover=st.booleans(),
)  # fmt: skip
def test_poolings_of_any_window(provider, size, kernel, stride, padded, cover) -> None:
    pad = tuple(k // 2 * p for k, p in zip(kernel, padded, strict=True))
    window = Window(kernel, stride, pad, cover)
    case = Case(lambda x: kernels.max_pooling_2d(x, window), ((2, 3, *size),))
    if all(
        (o - 1) * s < n + p
        for o, s, n, p in zip(window.output(size), stride, size, pad, strict=True)
    ):
        assert_close(computed(case, draws(case)), chainers(case, draws(case)), 1e-13)
    mean = Case(lambda x: kernels.average_pooling_2d(x, Window(kernel, stride, pad)), case.shapes)
    assert_close(computed(mean, draws(mean)), chainers(mean, draws(mean)), 1e-13)


def test_of_equals_the_first_receives_the_gradient(provider) -> None:
    x = chainer.Variable(np.zeros((1, 1, 2, 2), np.float32))
    F.sum(kernels.max_pooling_2d(x, Window((2, 2), (2, 2)))).backward()
    np.testing.assert_array_equal(x.grad, [[[[1, 0], [0, 0]]]])


# ---- links


LINKS = {
    "convolution": (lambda k: k.Convolution2D(3, 6, 3, stride=2, pad=1), IMAGE),
    "convolution-grouped": (lambda k: k.Convolution2D(4, 6, 3, groups=2, nobias=True), IMAGE),
    "convolution-lazy": (lambda k: k.Convolution2D(None, 6, 3), IMAGE),
    "deconvolution": (lambda k: k.Deconvolution2D(4, 6, 4, stride=2, pad=1), IMAGE),
    "batch-norm": (lambda k: k.BatchNormalization(4), IMAGE),
}


@pytest.mark.parametrize("name", [n for n in LINKS if n != "convolution"])
def test_links_hold_what_chainers_hold(provider, name) -> None:
    make, shape = LINKS[name]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    ours, theirs = make(kernels), make(L)
    ours(x), theirs(x)
    form = {n: p.shape for n, p in theirs.namedparams()}
    assert {n: p.shape for n, p in ours.namedparams()} == form
    ours.copyparams(theirs)
    for train in (True, False):
        with chainer.using_config("train", train):
            np.testing.assert_allclose(ours(x).array, theirs(x).array, rtol=1e-5, atol=1e-5)


def test_instance_normalisation_holds_what_chainers_group_normalisation_holds() -> None:
    ours, theirs = kernels.InstanceNormalization(4), L.GroupNormalization(4, 4)
    assert {n: p.shape for n, p in ours.namedparams()} == {
        n: p.shape for n, p in theirs.namedparams()
    }


def test_running_statistics_are_chainers(provider) -> None:
    ours, theirs = kernels.BatchNormalization(4, decay=0.7), L.BatchNormalization(4, decay=0.7)
    for seed in range(3):
        x = np.random.default_rng(seed).normal(2, 3, IMAGE).astype(np.float32)
        ours(x), theirs(x)
    np.testing.assert_allclose(ours.avg_mean, theirs.avg_mean, rtol=1e-5)
    np.testing.assert_allclose(ours.avg_var, theirs.avg_var, rtol=1e-5)


def test_recomputing_leaves_running_statistics_alone(provider) -> None:
    link = kernels.BatchNormalization(4)
    with chainer.using_config("in_recomputing", True):
        link(np.random.default_rng(0).normal(size=IMAGE).astype(np.float32))
    np.testing.assert_array_equal(link.avg_mean, 0)
    np.testing.assert_array_equal(link.avg_var, 1)


def test_a_large_mean_does_not_cancel(provider) -> None:
    x = np.random.default_rng(0).normal(3000, 0.1, IMAGE).astype(np.float32)
    for link in (kernels.BatchNormalization(4), kernels.InstanceNormalization(4)):
        with chainer.using_config("dtype", np.dtype(np.float64)):
            exact = type(link)(4)(x.astype(np.float64)).array
        assert np.abs(link(x).array - exact).max() < 0.02


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("make", ["Convolution2D", "Deconvolution2D"])
def test_folding_changes_nothing_but_the_rounding(provider, make, bias, relu) -> None:
    convolution = getattr(kernels, make)(4, 5, 3, pad=1, nobias=not bias)
    norm = kernels.BatchNormalization(5)
    rng = np.random.default_rng(0)
    for array in (norm.gamma.array, norm.beta.array, norm.avg_mean, norm.avg_var):
        array[...] = rng.uniform(0.5, 2, array.shape)
    if bias:
        convolution.b.array[...] = rng.uniform(0.5, 2, 5)
    x = rng.normal(size=IMAGE).astype(np.float32)
    with chainer.using_config("train", False), chainer.no_backprop_mode():
        folded = kernels.layer(convolution, norm, x, relu).array
        apart = norm(convolution(x), relu).array
    np.testing.assert_allclose(folded, apart, rtol=1e-4, atol=1e-5)


def test_what_learns_is_not_folded(provider) -> None:
    convolution, norm = kernels.Convolution2D(4, 5, 3), kernels.BatchNormalization(5)
    convolution.cleargrads(), norm.cleargrads()  # else they begin as NaN
    with chainer.using_config("train", False):
        F.sum(kernels.layer(convolution, norm, np.ones(IMAGE, np.float32)) ** 2).backward()
    assert all(p.grad is not None for p in (convolution.W, norm.gamma, norm.beta))


def small(text: str) -> chainer.Chain:
    return build(text, channels=3, classes=5, size=16, seed=0)


@pytest.mark.parametrize("text", ["plain-w4", "vgg-w4", "mobilenet-w4", "resnet8-w4"])
def test_classifiers_answer_alike_by_every_provider(text) -> None:
    x = np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32)
    answers = []
    for name in kernels.available():
        with kernels.using(name):
            image = chainer.Variable(x)
            logits = freeze(small(text))(image)
            F.sum(logits * np.arange(5, dtype=np.float32)).backward()
            answers.append((logits.array, image.grad))
    for answer in answers[1:]:
        assert_close(list(answer), list(answers[0]), 1e-4)


def test_gradients_that_nobody_needs_are_not_computed(
    provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a frozen classifier, those of its parameters; of a first layer, those of the images."""
    if provider == "chainer":
        pytest.skip("Chainer's own functions do as they do")
    used, image = choice.provider(np.zeros(1)), chainer.Variable(np.ones((1, 3, 8, 8), np.float32))
    frozen, first = freeze(small("resnet8-w4")), kernels.Convolution2D(4, 2, 3)
    with monkeypatch.context() as patch:
        patch.setattr(used, "convolution_weight_gradient", lambda *_: pytest.fail("not needed"))
        F.sum(frozen(image)).backward()
    monkeypatch.setattr(used, "convolution_input_gradient", lambda *_: pytest.fail("not needed"))
    F.sum(first(np.ones(IMAGE, np.float32))).backward()
    assert image.grad is not None
    assert first.W.grad is not None


# ---- errors

WRONG = {
    "channels": (
        lambda: kernels.convolution_2d(zeros(1, 3, 4, 4), zeros(2, 4, 3, 3)),
        r"images of shape \(1, 3, 4, 4\) do not fit a kernel of shape \(2, 4, 3, 3\) in 1 groups; "
        r"expected \(N, 4, H, W\)",
    ),
    "axes": (
        lambda: kernels.convolution_2d(zeros(3, 4, 4), zeros(2, 3, 3, 3)),
        r"images of shape \(3, 4, 4\) do not fit .*; expected \(N, 3, H, W\)",
    ),
    "groups": (
        lambda: kernels.convolution_2d(zeros(1, 4, 4, 4), zeros(3, 2, 3, 3), None, Geometry(groups=2)),
        r"do not fit a kernel of shape \(3, 2, 3, 3\) in 2 groups",
    ),
    "dtype": (
        lambda: kernels.convolution_2d(zeros(1, 3, 4, 4).astype(np.float32), zeros(2, 3, 3, 3)),
        "images are float32, and the kernel is float64; expected one dtype",
    ),
    "small": (
        lambda: kernels.convolution_2d(zeros(1, 3, 2, 4), zeros(2, 3, 3, 3)),
        r"images of 2 x 4 pixels, padded by \(0, 0\), are smaller than a kernel of 3 x 3 with "
        r"dilation \(1, 1\)",
    ),
    "size": (
        lambda: kernels.deconvolution_2d(zeros(1, 3, 2, 4), zeros(3, 2, 3, 3), size=(9, 6)),
        r"size of a deconvolution is \(9, 6\): a convolution takes it to \(7, 4\), not to the "
        r"\(2, 4\) of its input",
    ),
    "cover": (
        lambda: kernels.average_pooling_2d(zeros(1, 3, 4, 4), Window((2, 2), (2, 2), cover_all=True)),
        "cover_all of an average pooling is True; allowed: False",
    ),
    "pad": (
        lambda: Window((3, 3), (1, 1), (2, 0)),
        r"pad of a pooling is \(2, 0\); allowed: 0 to half the kernel, which is \(3, 3\)",
    ),
    "name": (lambda: kernels.use("cudnn"), "kernels are 'cudnn'; allowed: .*numpy, chainer"),
}  # fmt: skip


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape)


@pytest.mark.parametrize(("call", "said"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_named(provider, call, said) -> None:
    with pytest.raises(UsageError, match=said):
        call()


# ---- choosing


def test_the_fastest_present_is_used_until_another_is_named() -> None:
    assert kernels.available() in {NAMES, NAMES[1:]}
    before = kernels.current()
    with kernels.using("chainer"):
        assert kernels.current() == "chainer"
        with kernels.using("numpy"):
            assert kernels.current() == "numpy"
        assert kernels.current() == "chainer"
    assert kernels.current() == before


def test_a_missing_provider_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "available", lambda: ("numpy", "chainer"))
    with pytest.raises(UsageError) as raised:
        kernels.use("torch")
    assert str(raised.value) == (
        "kernels are 'torch', which is not installed: run `pip install 'jigsaw[torch]'`, "
        "or choose numpy or chainer"
    )


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["numpy", "chainer"])
def test_the_environment_chooses_and_is_shown(name) -> None:
    done = run("-m", "study", "environment", "--format", "json", JIGSAW_KERNELS=name)
    assert done.returncode == 0, done.stderr
    rows = {(row["part"], row["what"]): row["value"] for row in json.loads(done.stdout)}
    assert rows["kernels", "provider"] == name
    assert rows["kernels", "installed"] == ", ".join(kernels.available())


def test_every_artifact_says_which_kernels_made_it(provider) -> None:
    assert provenance()["kernels"]["provider"] == provider


def test_a_wrong_choice_is_one_sentence_and_exit_code_2() -> None:
    done = run("-m", "study", "environment", JIGSAW_KERNELS="cudnn")
    assert done.returncode == 2
    assert "JIGSAW_KERNELS is 'cudnn'; allowed: " in done.stderr
    assert done.stderr.count("\n") == 1


def test_torch_is_loaded_when_it_computes_and_not_before() -> None:
    if "torch" not in kernels.available():
        pytest.skip("torch is not installed")
    code = (
        "import sys, numpy as np; from models import kernels, generators, classifiers\n"
        "kernels.use('torch')\n"
        "assert 'torch' not in sys.modules\n"
        "kernels.relu(np.zeros((1, 1, 2, 2), np.float32))\n"
        "import torch; assert torch.get_num_threads() == 1, torch.get_num_threads()\n"
    )
    done = run("-W", "error", "-c", code, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
