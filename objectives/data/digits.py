"""`digits`: 1797 handwritten digits of 8x8 grey pixels inside scikit-learn (UCI, Optdigits).

Too small for attacks that look like anything, and done in a second: for tests and first steps.
"""

import numpy as np

from objectives.data.dataset import DataSet, Split
from objectives.data.packaged import packaged
from objectives.data.stratify import stratified

__all__ = ["load"]

_SHARES = (4 / 6, 1 / 6, 1 / 6)  # train, tune, report: about 1197, 300 and 300 images
_BRIGHTEST = 16


def load() -> DataSet:
    """The digits, 0..16 stretched to 0..255, dealt class by class in content order.

    Returns:
        Images of shape (N, 1, 8, 8), classes "0".."9".

    Raises:
        DataError: scikit-learn lacks the file.
    """
    table = np.loadtxt(
        packaged("sklearn", "datasets/data/digits.csv.gz"), delimiter=",", dtype=np.int32
    )
    pixels = np.rint(table[:, :-1] * (255 / _BRIGHTEST)).astype(np.uint8)
    images, labels = pixels.reshape(-1, 1, 8, 8), table[:, -1]
    train, tune, report = (
        Split(images[part], labels[part]) for part in stratified(images, labels, _SHARES, "digits")
    )
    return DataSet("digits", tuple("0123456789"), train, tune, report)
