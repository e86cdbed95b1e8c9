"""Networks that come with Jigsaw: found by name, small, within their budgets, and silent about machines."""

import json
import re
from pathlib import Path

import models  # noqa: F401  makes Chainer importable

# isort: split
import numpy as np
import pytest

from models.package import load_package
from models.pixels import to_bytes, to_unit
from models.released import RELEASED, package_folder
from study.errors import DataError

MEGABYTES = 2**20


def test_a_path_stays_a_path_and_a_package_comes_before_a_released_name(
    tmp_path, monkeypatch
) -> None:
    assert package_folder(tmp_path) == tmp_path
    assert package_folder("nobody") == Path("nobody")
    for name in RELEASED:
        assert (package_folder(name) / "package.json").is_file()
        monkeypatch.chdir(tmp_path)
        (tmp_path / name).mkdir()  # such as the data set's
        assert (package_folder(name) / "package.json").is_file()
        (tmp_path / name / "package.json").touch()
        assert package_folder(name) == Path(name)


def test_who_names_nothing_hears_what_is_released() -> None:
    with pytest.raises(DataError) as raised:
        load_package(Path("nobody"))
    said = str(raised.value)
    assert said.startswith("package 'nobody' has no package.json; expected a folder made by")
    assert all(name in said for name in RELEASED)


@pytest.mark.parametrize("name", RELEASED)
class TestReleased:
    def test_it_is_small_and_licensed(self, name: str) -> None:
        folder = package_folder(name)
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 4 * MEGABYTES
        assert f"`{name}/" in (folder.parent / "LICENCES.md").read_text()

    def test_its_images_keep_every_budget(self, name: str) -> None:
        network, card = load_package(Path(name))
        size = network.hint.classifier.size if network.hint else 32
        images = np.random.default_rng(0).integers(0, 256, (4, card.channels, size, size), np.uint8)
        for epsilon in card.epsilons.values:
            found = to_bytes(network(to_unit(images), np.full(4, epsilon)).array).astype(int)
            assert 0 < np.abs(found - images).max() <= epsilon

    def test_its_card_says_how_good_it_is_and_nothing_of_a_machine(self, name: str) -> None:
        folder = package_folder(name)
        card = json.loads((folder / "package.json").read_text())
        assert "epsilon 8" in card["record"]["measured"]
        assert {"noop", "random", "mi-fgsm", name} <= {row["attack"] for row in card["errors"]}
        assert "host" not in card["record"]["machine"]
        assert not re.search(r"[\"` :]/\w+", (folder / "CARD.md").read_text()), "an absolute path"
