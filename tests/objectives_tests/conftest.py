"""What several tests of objectives need, made once: the digits and classifiers trained on them."""

from pathlib import Path

import pytest

from models.classifiers import Classifier
from objectives.data import DataSet, Split, load
from objectives.targets import load_targets
from study.world import World


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone: no test may leave classifiers in the user's."""
    monkeypatch.setenv("JIGSAW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def digits() -> DataSet:
    return load("digits")


@pytest.fixture(scope="session")
def plain_digits(
    digits: DataSet, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Classifier, Split]:
    """A classifier that reads digits, and the images it was not trained on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JIGSAW_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_targets(["plain-w8"], digits, 6000, World())["plain-w8"], digits.tune
