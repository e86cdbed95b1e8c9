"""Defences by hand and by law: what they do to pixels, and what passes back through them."""

from io import BytesIO

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import chainer.functions as F
import numpy as np
import pytest
from PIL import Image

from models import weights
from models.classifiers import build, defend, freeze, split_training, undefended
from models.defences import (
    DEFENCES,
    Defence,
    jpeg,
    median,
    reduce_bits,
    resize,
    split_defences,
)
from models.pixels import to_bytes, to_unit
from study.errors import UsageError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (5, 3, 16, 13), dtype=np.uint8)
EACH = [
    Defence("jpeg", 50),
    Defence("bits", 3),
    Defence("median", 3),
    Defence("resize", 0.5),
]
ids = {"ids": lambda value: getattr(value, "name", None)}


def test_jpeg_is_what_a_file_of_that_quality_holds() -> None:
    for quality in (10, 90):
        buffer = BytesIO()
        Image.fromarray(COLOUR[2].transpose(1, 2, 0)).save(buffer, "JPEG", quality=quality)
        expected = np.asarray(Image.open(buffer)).transpose(2, 0, 1)
        np.testing.assert_array_equal(jpeg(COLOUR, quality)[2], expected)
    moved = [np.abs(jpeg(COLOUR, q).astype(int) - COLOUR).mean() for q in (10, 50, 95)]
    assert moved == sorted(moved, reverse=True)


@pytest.mark.parametrize("bits", range(1, 8))
def test_fewer_bits_are_evenly_spaced_levels_from_black_to_white(bits) -> None:
    levels = np.unique(reduce_bits(np.arange(256, dtype=np.uint8), bits))
    np.testing.assert_array_equal(levels, np.rint(np.linspace(0, 255, 2**bits)))
    assert reduce_bits(np.uint8([127, 128]), 1).tolist() == [0, 255]


def test_the_median_is_of_a_window_of_one_channel() -> None:
    found = median(COLOUR, 5)
    assert found[1, 2, 6, 7] == np.median(COLOUR[1, 2, 4:9, 5:10])
    np.testing.assert_array_equal(median(COLOUR[1:2, 2:], 5)[0, 0], found[1, 2])


def test_resizing_keeps_pixels_of_the_image_in_order_and_pads_with_black() -> None:
    image = (np.arange(1, 257).reshape(1, 1, 16, 16) / 300).astype(np.float32)
    shown = resize(image, 0.5).array[0, 0]
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    kept = shown[np.ix_(rows, columns)]
    assert 8 <= len(rows) == len(columns) < 16
    assert np.isin(kept, image).all()
    assert (kept > 0).all()
    assert (np.diff(kept, axis=1) > 0).all()
    assert (np.diff(kept, axis=0) > 0).all()


def test_different_images_are_resized_differently() -> None:
    shown = resize(to_unit(RNG.integers(1, 256, (40, 1, 16, 16), dtype=np.uint8)), 0.5).array
    sizes = {int((image[0].any(1)).sum()) for image in shown}
    places = {int(image[0].any(1).argmax()) for image in shown}
    assert min(sizes) >= 8
    assert len(sizes) > 4
    assert len(places) > 2


@pytest.mark.parametrize("defence", EACH, **ids)
@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
class TestLaws:
    def test_images_stay_images(self, defence: Defence, images) -> None:
        shown = defence(to_unit(images)).array
        assert shown.shape == images.shape
        assert shown.dtype == np.float32
        np.testing.assert_allclose(shown, to_unit(to_bytes(shown)), atol=1e-6)
        assert not np.array_equal(shown, to_unit(images))

    def test_the_same_whatever_the_batch(self, defence: Defence, images) -> None:
        whole = defence(to_unit(images)).array
        np.testing.assert_array_equal(whole, defence(to_unit(images)).array)
        for k in range(len(images)):
            np.testing.assert_array_equal(
                whole[k : k + 1], defence(to_unit(images[k : k + 1])).array
            )

    def test_a_gradient_comes_back(self, defence: Defence, images) -> None:
        x = chainer.Variable(to_unit(images).astype(np.float64))
        wanted = RNG.normal(size=images.shape)
        F.sum(defence(x) * wanted).backward()
        if defence.name == "resize":
            # Linear: the gradient along any direction is the value there.
            matrix = defence(x).array
            assert F.sum(x.grad * x).array == pytest.approx((matrix * wanted).sum())
        else:
            np.testing.assert_array_equal(x.grad, wanted)


@pytest.mark.parametrize(
    ("text", "names", "base"),
    [
        ("resnet8", [], "resnet8"),
        ("jpeg:50+resnet8@3", ["jpeg:50"], "resnet8@3"),
        ("bits:3+jpeg:75+npz:a+b.npz", ["bits:3", "jpeg:75"], "npz:a+b.npz"),
        ("resize:0.9+./a.py:Net", ["resize:0.9"], "./a.py:Net"),
        ("npz:median:3+x.npz", [], "npz:median:3+x.npz"),
        ("a+b/net.py:Net", [], "a+b/net.py:Net"),
    ],
)
def test_defences_are_written_before_a_classifier(text, names, base) -> None:
    used, rest = split_defences(text)
    assert [f"{d.name}:{d.strength:g}" for d in used] == names
    assert rest == base


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("jpeg:0+vgg", "defence 'jpeg:0': allowed is a quality, 1 to 100"),
        ("jpeg:101+vgg", "defence 'jpeg:101': allowed is a quality, 1 to 100"),
        ("jpeg:good+vgg", "defence 'jpeg:good': allowed is a quality, 1 to 100"),
        ("bits:8+vgg", "defence 'bits:8': allowed is bits per channel, 1 to 7"),
        ("bits:2.5+vgg", "defence 'bits:2.5': allowed is bits per channel, 1 to 7"),
        ("median:4+vgg", "defence 'median:4': allowed is an odd window, 3 to 15"),
        ("resize:1+vgg", "defence 'resize:1': allowed is the smallest share, between 0 and 1"),
        ("resize:nan+vgg", "defence 'resize:nan': allowed is the smallest share, between 0 and 1"),
        ("vgg+jpeg:+vgg", None),
        ("jpeg:+vgg", "defence 'jpeg:': allowed is a quality, 1 to 100"),
    ],
)
def test_a_strength_that_cannot_be_is_refused(text, said) -> None:
    if said is None:
        assert split_defences(text) == ((), text)
        return
    with pytest.raises(UsageError) as raised:
        split_defences(text)
    assert str(raised.value) == said


def make(text: str, channels: int = 3):
    return freeze(build(text, channels=channels, classes=4, size=16, seed=1))


@pytest.mark.parametrize("base", ["plain-w4", "resnet8-w4"])
@pytest.mark.parametrize("name", ["jpeg:50", "bits:3", "median:3", "resize:0.5", "bits:4+median:3"])
def test_a_defended_classifier_is_the_classifier_of_defended_images(base, name) -> None:
    net, plain = make(f"{name}+{base}"), make(base)
    x = to_unit(RNG.integers(0, 256, (4, 3, 16, 16), dtype=np.uint8))
    shown = x
    for defence in split_defences(f"{name}+x")[0]:
        shown = defence(shown)
    np.testing.assert_array_equal(net(x).array, plain(shown).array)
    assert not np.allclose(net(x).array, plain(x).array)
    assert [f.shape for f in net.features(x)] == [f.shape for f in plain.features(x)]
    assert weights.digest(undefended(net)) == weights.digest(plain)


@pytest.mark.parametrize("name", list(DEFENCES))
def test_a_frozen_defended_classifier_gives_gradients_to_the_image_alone(name) -> None:
    strength = {"resize": "0.5"}.get(name, "3")
    net = make(f"{name}:{strength}+resnet8-w4")
    x = chainer.Variable(to_unit(RNG.integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)))
    F.sum(net(x)).backward()
    assert np.abs(x.grad).max() > 0
    assert all(parameter.grad is None for parameter in net.params())


def test_no_defence_is_the_classifier_itself_and_weights_are_shared() -> None:
    net = make("plain-w4")
    assert defend(net, ()) is net
    first, second = (defend(net, [d]) for d in EACH[:2])
    assert undefended(first) is undefended(second) is undefended(defend(first, EACH[2:])) is net


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("resnet8", ("resnet8", "")),
        ("resnet8~pgd:8x7", ("resnet8", "pgd:8x7")),
        ("a.py:Net~fgsm-rs", ("a.py:Net", "fgsm-rs")),
        ("~/nets/a.py:Net", ("~/nets/a.py:Net", "")),
        ("npz:/home/~me/net.npz", ("npz:/home/~me/net.npz", "")),
    ],
)
def test_how_it_is_trained_is_written_behind_a_classifier(text, parts) -> None:
    assert split_training(text) == parts


def test_how_it_is_trained_makes_no_other_network() -> None:
    assert weights.digest(make("plain-w4~pgd:8")) == weights.digest(make("plain-w4"))
