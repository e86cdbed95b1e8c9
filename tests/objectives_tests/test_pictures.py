"""Pictures of an attack."""

import json
from io import BytesIO

import chainer
import numpy as np
import pytest
from PIL import Image

from objectives.baselines import noop, random_sign
from objectives.pictures import examples, magnified, sheet_png

IMAGES = np.random.default_rng(0).integers(40, 200, (3, 3, 5, 4), dtype=np.uint8)


@pytest.mark.parametrize(
    ("moved", "epsilon", "level"),
    [(0, 4, 128), (4, 4, 255), (-4, 4, 0), (2, 4, 191), (0, 0, 128), (9, 4, 255)],
)
def test_perturbations_are_stretched_to_the_whole_range(moved, epsilon, level) -> None:
    clean = np.full((1, 1, 1, 1), 100, np.uint8)
    adversarial = (clean.astype(int) + moved).astype(np.uint8)
    assert magnified(adversarial, clean, epsilon).item() == level


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_three_rows_of_pictures(channels, mode) -> None:
    images = IMAGES[:, :channels]
    with Image.open(BytesIO(sheet_png(images, random_sign(images, 8), 8, scale=2))) as picture:
        assert (picture.mode, picture.size) == (mode, (3 * 4 * 2, 3 * 5 * 2))
        pixels = np.asarray(picture)[::2, ::2].reshape(15, 12, channels)
    rows = [np.split(row, 3, axis=1) for row in np.split(pixels, 3)]
    noisy = random_sign(images, 8)
    for k in range(3):
        for row, expected in enumerate((images, noisy, magnified(noisy, images, 8))):
            np.testing.assert_array_equal(rows[row][k], expected[k].transpose(1, 2, 0))


class Brightness(chainer.Link):
    """Calls an image light or dark by its mean."""

    def forward(self, x):
        mean = x.mean(axis=(1, 2, 3))
        return chainer.Variable(self.xp.stack([0.5 - mean, mean - 0.5], axis=1))


def test_examples_keep_the_budget_and_say_what_classifiers_call_them() -> None:
    images = np.stack([np.full((1, 4, 4), level, np.uint8) for level in (100, 126, 130)])
    labels = np.array([0, 0, 1], np.int32)
    files = examples(
        lambda x, e: 255 - x, images, labels, (8, 1), {"b": Brightness()}, ("dark", "light")
    )
    assert set(files) == {f"examples.eps{e:02d}.{kind}" for e in (1, 8) for kind in ("png", "json")}
    with Image.open(BytesIO(files["examples.eps08.png"])) as picture:
        clean, adversarial, _ = np.split(np.asarray(picture).astype(int), 3)
    assert np.abs(adversarial - clean).max() == 8
    assert json.loads(files["examples.eps08.json"]) == {
        "true": ["dark", "dark", "light"],
        "before": {"b": ["dark", "dark", "light"]},
        "after": {"b": ["dark", "light", "dark"]},
    }


def test_no_change_is_grey() -> None:
    with Image.open(BytesIO(sheet_png(IMAGES, noop(IMAGES, 4), 4))) as picture:
        assert set(np.asarray(picture)[30:].ravel()) == {128}
