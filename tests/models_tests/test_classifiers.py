import copy
import pickle
from pathlib import Path
from types import SimpleNamespace

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import chainer.functions as F
import chainer.links as L
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models import weights
from models.classifiers import ARCHITECTURES, Classifier, build, freeze, resize
from models.classifiers.depthwise import depthwise
from models.classifiers.graph import same
from models.classifiers.resize import Resized, interpolation
from study.errors import UsageError

FAMILIES = ("plain", "vgg", "mobilenet", "resnet8", "resnet14")


def images(channels: int = 3, size: int = 8, count: int = 2) -> np.ndarray:
    return np.random.RandomState(0).rand(count, channels, size, size).astype(np.float32)


def make(
    text: str = "resnet8-w4", *, channels: int = 3, classes: int = 10, size: int = 8, seed: int = 0
):
    return build(text, channels=channels, classes=classes, size=size, seed=seed)


def run(classifier: Classifier, x: np.ndarray) -> np.ndarray:
    with chainer.no_backprop_mode(), chainer.using_config("train", False):
        return classifier(x).array


# ---- laws of every architecture


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 17), (1, 28), (3, 32), (2, 64)])
@pytest.mark.parametrize("text", [f"{name}-w4" for name in FAMILIES])
def test_logits_and_features_fit_every_size(text: str, channels: int, size: int) -> None:
    classifier = make(text, channels=channels, classes=7, size=size)
    x = images(channels, size)
    with chainer.using_config("train", False):
        features, logits = classifier.features(x), classifier(x)
    assert logits.shape == (2, 7)
    assert logits.dtype == np.float32
    assert len(features) == 3
    sides = [feature.shape[2] for feature in features]
    assert sides == sorted(sides, reverse=True)
    assert 2 <= sides[-1] < sides[0] <= 16
    np.testing.assert_array_equal(classifier.head(features[-1]).array, logits.array)


@pytest.mark.parametrize("text", ARCHITECTURES)
def test_equal_seeds_give_equal_weights_whatever_the_global_state(text: str) -> None:
    np.random.seed(1)
    first, state = make(text, seed=5), np.random.get_state()[1].copy()
    np.random.seed(2)
    assert weights.digest(first) == weights.digest(make(text, seed=5))
    assert weights.digest(first) != weights.digest(make(text, seed=6))
    np.random.seed(1)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("text", [f"{name}-w4" for name in FAMILIES])
def test_every_parameter_learns(text: str) -> None:
    classifier = make(text)
    classifier.cleargrads()
    F.softmax_cross_entropy(classifier(images(count=4)), np.arange(4, dtype=np.int32)).backward()
    for name, parameter in classifier.namedparams():
        assert parameter.grad is not None, name
        assert np.isfinite(parameter.grad).all(), name
        assert np.abs(parameter.grad).max() > 0, name


def test_training_lowers_the_loss() -> None:
    classifier = make("mobilenet-w4")
    optimizer = chainer.optimizers.Adam(0.01).setup(classifier)
    x, t = images(count=8), np.arange(8, dtype=np.int32)
    losses = []
    for _ in range(15):
        loss = F.softmax_cross_entropy(classifier(x), t)
        classifier.cleargrads()
        loss.backward()
        optimizer.update()
        losses.append(float(loss.array))
    assert losses[-1] < 0.5 * losses[0]


def test_normalisation_is_inside_and_saved() -> None:
    classifier = make("plain-w4")
    assert {"mean", "std"} <= set(weights.arrays(classifier))
    seen: list[np.ndarray] = []
    classifier.stages = lambda h: (seen.append(h.array), h)[1:]
    classifier.features(np.array([0.5, 1.0, 0.0], np.float32).reshape(1, 3, 1, 1))
    np.testing.assert_allclose(seen[0].ravel(), [0, 2, -2])


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 1, 8, 8), (2, 3, 8)])
def test_other_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"images of shape \(.*\) were given .* \(N, 3, H, W\)"):
        make()(np.zeros(shape, np.float32))


# ---- known structure


DEPTHS = {"resnet8": 8, "resnet20": 20, "resnet56": 56}


@pytest.mark.parametrize(("text", "depth"), DEPTHS.items())
def test_resnet_depth_counts_its_weighted_layers(text: str, depth: int) -> None:
    layers = [n for n, p in make(f"{text}-w2").namedparams() if n.endswith("/W")]
    assert len(layers) == depth


def test_resnet20_at_width_16_is_the_papers() -> None:
    # Table 6 of the paper says 0.27 M parameters.
    network = make("resnet20-w16-s1", size=32)
    assert network.count_params() == 269_722
    assert [f.shape[1:] for f in network.features(images(size=32, count=1))] == [
        (16, 32, 32), (32, 16, 16), (64, 8, 8),
    ]  # fmt: skip


def test_the_shortcut_drops_pixels_and_pads_channels() -> None:
    network = make("resnet8-w4", size=16)
    block = network.layer2[0]
    block.bn2.gamma.array[:] = 0  # nothing but the shortcut is left
    h = np.abs(images(4, 6))
    with chainer.using_config("train", False):
        out = block(chainer.Variable(h)).array
    np.testing.assert_array_equal(out[:, 2:6], h[:, :, ::2, ::2])
    assert not out[:, :2].any()
    assert not out[:, 6:].any()


STRIDES = {8: 1, 16: 1, 17: 2, 28: 2, 32: 2, 33: 4, 64: 4}


@pytest.mark.parametrize(("size", "stride"), STRIDES.items())
def test_the_stem_leaves_at_most_16_pixels_and_sees_all(size: int, stride: int) -> None:
    classifier = make("plain-w2", size=size)
    assert classifier.convs[0].stride == (stride, stride)
    x = chainer.Variable(images(size=size, count=1))
    F.sum(classifier.convs[0](x)).backward()
    assert (x.grad != 0).all()


# ---- text


def test_text_gives_width_and_stride() -> None:
    assert make("vgg-w6-s4").features(images(size=32))[0].shape == (2, 6, 8, 8)


WRONG_TEXTS = (
    "", "resnet", "resnet9", "resnet8-", "resnet8-w", "resnet8-w0", "resnet8-w1", "resnet8-w99999",
    "resnet8-s3", "resnet8-s1-w8", "Resnet8", " resnet8", "resnet8\n", "alexnet", "plain8", "npz",
)  # fmt: skip


@pytest.mark.parametrize("text", WRONG_TEXTS)
def test_unknown_texts_are_answered_with_the_allowed_ones(text: str) -> None:
    with pytest.raises(
        UsageError, match=r"^classifier is .*: allowed are plain, vgg, mobilenet, resnet8"
    ) as e:
        make(text)
    assert repr(text) in str(e.value)
    assert str(e.value).endswith("path/to/file.py:Name, and torch: before either of these")


WRONG_NUMBERS = {
    "channels": ({"channels": 0}, "channels of a classifier is 0: allowed is 1 to 1024"),
    "classes": ({"classes": 1}, "classes of a classifier is 1: allowed is 2 to 1048576"),
    "small": ({"size": 7}, "size of a classifier is 7: allowed is 8 to 64"),
    "large": ({"size": 65}, "size of a classifier is 65: allowed is 8 to 64"),
    "seed": ({"seed": -1}, r"seed is -1: allowed is 0 <= seed < 2\*\*32"),
}


@pytest.mark.parametrize(("numbers", "message"), WRONG_NUMBERS.values(), ids=WRONG_NUMBERS)
def test_wrong_numbers_are_named(numbers: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}$"):
        make(**numbers)


# ---- frozen targets


@pytest.mark.parametrize("text", [f"{name}-w4" for name in FAMILIES])
def test_a_frozen_classifier_is_a_fixed_function_of_the_image(text: str) -> None:
    x, t = images(count=4), np.arange(4, dtype=np.int32)
    classifier = make(text)
    classifier(x * 0.5)  # moves the running statistics off their start
    expected = run(classifier, x)
    plain = chainer.Variable(x)
    with chainer.using_config("train", False):
        F.softmax_cross_entropy(classifier(plain), t).backward()

    freeze(classifier)
    before = weights.digest(classifier)
    image = chainer.Variable(x)
    with chainer.using_config("train", True):
        logits = classifier(image)
        F.softmax_cross_entropy(logits, t).backward()
    # Frozen, a normalisation is folded into the convolution before it, which rounds otherwise.
    np.testing.assert_allclose(logits.array, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(image.grad, plain.grad, rtol=1e-3, atol=1e-6)
    assert np.abs(image.grad).max() > 0
    assert all(parameter.grad is None for parameter in classifier.params())
    assert weights.digest(classifier) == before


@pytest.mark.parametrize("text", ["resnet8-w4", "mobilenet-w4"])
def test_the_image_gradient_is_the_slope(text: str) -> None:
    classifier = freeze(make(text))
    for parameter in classifier.params():
        parameter.array = parameter.array.astype(np.float64)
    for link in classifier.links():
        if isinstance(link, L.BatchNormalization):
            link.avg_mean, link.avg_var = np.zeros(link.avg_mean.shape), np.ones(link.avg_var.shape)
    with chainer.using_config("dtype", np.float64):
        x = images().astype(np.float64)
        direction = np.random.RandomState(1).randn(*x.shape)
        weight = np.random.RandomState(2).randn(2, 10)
        image = chainer.Variable(x)
        F.sum(classifier(image) * weight).backward()
        step = 1e-6
        up, down = (
            float((classifier(x + s * direction).array * weight).sum()) for s in (step, -step)
        )
    assert (up - down) / (2 * step) == pytest.approx((image.grad * direction).sum(), rel=1e-5)


COPIES = {
    "copy": lambda c: c.copy(),
    "deepcopy": copy.deepcopy,
    "pickle": lambda c: pickle.loads(pickle.dumps(c)),  # noqa: S301  our own bytes
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_copies_of_a_frozen_classifier_are_frozen(duplicate) -> None:
    classifier = duplicate(freeze(make()))
    image = chainer.Variable(images())
    F.sum(classifier(image)).backward()
    assert image.grad is not None
    assert all(parameter.grad is None for parameter in classifier.params())


def test_a_frozen_classifier_has_nothing_to_differentiate_in_plain_arrays() -> None:
    assert make()(images()).requires_grad
    assert not freeze(make())(images()).requires_grad


def test_a_classifier_that_is_not_frozen_still_trains() -> None:
    classifier, frozen = make(), freeze(make())
    frozen(images())
    classifier.cleargrads()
    before = weights.digest(classifier)
    F.sum(classifier(images())).backward()
    assert all(parameter.grad is not None for parameter in classifier.params())
    assert weights.digest(classifier) != before  # running statistics moved


# ---- depthwise convolution


def reference(x: np.ndarray, W: np.ndarray, stride: int, pads) -> np.ndarray:
    x = np.pad(x, ((0, 0), (0, 0), *pads))
    windows = np.lib.stride_tricks.sliding_window_view(x, W.shape[2:], axis=(2, 3))
    return np.einsum("nchwab,cab->nchw", windows[:, :, ::stride, ::stride], W[:, 0])


pair = st.tuples(st.integers(0, 2), st.integers(0, 2))


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(3, 9), st.integers(3, 9)),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    pads=st.tuples(pair, pair),
)
def test_depthwise_equals_its_definition_and_its_adjoint(shape, kernel, stride, pads) -> None:
    rng = np.random.RandomState(sum(shape))
    n, c, h, w = shape
    x, W = (
        chainer.Variable(rng.randn(n, c, h, w)),
        chainer.Variable(rng.randn(c, 1, kernel, kernel)),
    )
    y = depthwise(x, W, stride, pads)
    np.testing.assert_allclose(y.array, reference(x.array, W.array, stride, pads), atol=1e-12)
    gy = rng.randn(*y.shape)
    y.grad = gy.copy()
    y.backward()
    # The map is linear in x and in W, so <gy, A dx> = <A* gy, dx> for any dx holds exactly.
    dx, dW = rng.randn(*x.shape), rng.randn(*W.shape)
    assert (gy * reference(dx, W.array, stride, pads)).sum() == pytest.approx((x.grad * dx).sum())
    assert (gy * reference(x.array, dW, stride, pads)).sum() == pytest.approx((W.grad * dW).sum())


def test_depthwise_equals_chainers() -> None:
    x, W = images(5, 9), np.random.RandomState(1).rand(5, 1, 3, 3).astype(np.float32)
    expected = F.depthwise_convolution_2d(x, W.transpose(1, 0, 2, 3), stride=2, pad=1)
    np.testing.assert_allclose(depthwise(x, W, 2).array, expected.array, rtol=1e-5)


# ---- TensorFlow's SAME padding


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"),
    [
        (224, 3, 2, (0, 1)),
        (112, 3, 1, (1, 1)),
        (7, 3, 2, (1, 1)),
        (8, 1, 2, (0, 0)),
        (5, 2, 1, (0, 1)),
    ],
)
def test_same_padding(size: int, kernel: int, stride: int, pads: tuple[int, int]) -> None:
    assert same(size, kernel, stride) == pads
    assert (size + sum(pads) - kernel) // stride + 1 == -(-size // stride)


# ---- resizing


@pytest.mark.parametrize(("before", "after"), [(299, 224), (299, 128), (37, 16), (16, 37), (8, 8)])
def test_resize_equals_pillow(before: int, after: int) -> None:
    x = images(1, before, 1)
    image = Image.fromarray(x[0, 0]).resize((after, after), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(resize(x, after).array[0, 0], np.asarray(image), atol=2e-6)


def test_resize_keeps_rows_and_columns_apart() -> None:
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32), (1, 1, 8, 8))
    out = resize(ramp, 4).array[0, 0]
    np.testing.assert_allclose(out, np.broadcast_to(out[0], (4, 4)), rtol=1e-6)
    assert (np.diff(out[0]) > 1).all()


@given(st.integers(1, 64), st.integers(1, 64))
@settings(max_examples=60, deadline=None)
def test_interpolation_is_an_average(before: int, after: int) -> None:
    matrix = interpolation(before, after)
    assert matrix.shape == (after, before)
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-6)


def test_gradients_pass_through_resizing() -> None:
    inner = make("plain-w2")
    classifier = freeze(Resized(inner, 20))
    assert (classifier.size, classifier.channels, classifier.classes) == (20, 3, 10)
    image = chainer.Variable(images(size=20))
    logits = classifier(image)
    np.testing.assert_allclose(logits.array, inner(resize(image, 8)).array, rtol=1e-6)
    F.sum(logits).backward()
    small = chainer.Variable(resize(image.array, 8).array)
    F.sum(inner(small)).backward()
    matrix = interpolation(20, 8)
    np.testing.assert_allclose(image.grad, matrix.T @ small.grad @ matrix, rtol=1e-4, atol=1e-7)


# ---- the user's own


class Own(chainer.Chain):
    def __init__(self, *, channels: int, classes: int, seed: int, size: int) -> None:
        super().__init__()
        W = np.random.RandomState(seed).rand(classes, channels).astype(np.float32)
        with self.init_scope():
            self.norm = L.BatchNormalization(channels)
            self.linear = L.Linear(channels, classes, initialW=W)

    def forward(self, x):
        return self.linear(F.average(self.norm(x), axis=(2, 3)))


class Short(Own):
    def forward(self, x):
        return super().forward(x)[:, 1:]


class Broken(Own):
    def forward(self, x):
        raise ValueError(f"no such layer for {x.dtype}")


def own_classifier(channels: int, classes: int, size: int, seed: int) -> Classifier:
    return build("plain-w2", channels=channels, classes=classes, size=size, seed=seed)


def none(**_: int) -> None:
    return None


def narrow(channels: int) -> None:
    return None


not_callable = SimpleNamespace()


@pytest.mark.parametrize("place", [__name__, __file__])
def test_the_users_own_chain_is_found_and_frozen(place: str) -> None:
    classifier = make(f"{place}:Own", seed=3)
    assert isinstance(classifier, Classifier)
    assert (classifier.channels, classifier.classes, classifier.size) == (3, 10, 8)
    np.testing.assert_array_equal(
        classifier.chain.linear.W.array, Own(channels=3, classes=10, seed=3, size=8).linear.W.array
    )
    (feature,) = classifier.features(images())
    np.testing.assert_array_equal(feature.array, classifier(images()).array)
    freeze(classifier)
    before, image = weights.digest(classifier), chainer.Variable(images())
    F.sum(classifier(image)).backward()
    assert image.grad is not None
    assert weights.digest(classifier) == before
    assert all(parameter.grad is None for parameter in classifier.params())


def test_the_users_own_classifier_keeps_its_features() -> None:
    assert len(make(f"{__name__}:own_classifier").features(images())) == 3


FOREIGN = {
    "Missing": "has no 'Missing'",
    "not_callable": r"is namespace\(\): expected a class or a function",
    "narrow": "cannot be called with channels, classes, size and seed: .*unexpected keyword",
    "none": r"returned None: expected a chainer\.Chain",
    "Short": r"returns \(1, 9\) for one image: expected logits of shape \(1, 10\)",
    "Broken": r"fails on images of shape \(1, 3, 8, 8\): ValueError: no such layer",
}


@pytest.mark.parametrize(("name", "message"), FOREIGN.items())
def test_unfit_classifiers_of_the_user_are_named(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=rf"^classifier '.*:{name}'.* {message}"):
        make(f"{__name__}:{name}")


def test_a_missing_file_of_the_user_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"classifier file .*mine\.py' does not exist"):
        make(f"{tmp_path / 'mine.py'}:Own")
