"""Attack your own classifier on your own images: both are named as `path/to/file.py:Name`.

    jigsaw create mine \\
        --set data=examples/own_data_and_classifier.py:digits_pairs \\
        --set train=examples/own_data_and_classifier.py:TinyNet \\
        --set tune=examples/own_data_and_classifier.py:TinyNet@1 \\
        --set report=plain --set classifier_images=4000 --set images=1600
    mpiexec -n 2 python -m study.worker --study mine --n-trials 10

The data set: two handwritten digits side by side, labelled by whether the left one is larger. The
classifier trains on it when the first worker starts; the `@1` is one more, from another seed.
"""

import chainer
import chainer.functions as F
import chainer.links as L
import numpy as np
from sklearn.datasets import load_digits

from objectives.data import DataSet, Split


def digits_pairs() -> DataSet:
    """Return 3,000 pairs in three sets; no digit is in two of them."""
    images, digits = load_digits(return_X_y=True)
    pixels = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    order = np.random.default_rng(0).permutation(len(pixels))
    parts = np.split(order, [1000, 1400])
    train, tune, report = (
        _pairs(pixels[part], digits[part], count)
        for part, count in zip(parts, (2000, 500, 500), strict=True)
    )
    return DataSet("pairs", ("not larger", "left larger"), train, tune, report)


def _pairs(pixels: np.ndarray, digits: np.ndarray, count: int) -> Split:
    left, right = np.random.default_rng(1).integers(0, len(pixels), (2, count))
    empty = np.zeros((count, 1, 4, 16), np.uint8)
    pairs = np.concatenate([pixels[left], pixels[right]], axis=3)
    square = np.concatenate([empty, pairs, empty], axis=2)
    return Split(square, (digits[left] > digits[right]).astype(np.int32))


class TinyNet(chainer.Chain):
    """Two layers; called with what it must know, and with a seed that makes it repeatable."""

    def __init__(self, channels: int, classes: int, size: int, seed: int) -> None:
        super().__init__()
        initial = chainer.initializers.HeNormal(rng=np.random.RandomState(seed))
        with self.init_scope():
            self.hidden = L.Linear(channels * size * size, 64, initialW=initial)
            self.logits = L.Linear(64, classes, initialW=initial)

    def forward(self, x: chainer.Variable) -> chainer.Variable:
        return self.logits(F.relu(self.hidden(x - 0.5)))
