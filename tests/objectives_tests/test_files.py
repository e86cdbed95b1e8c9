"""Clean images out, adversarial images in: what is written is read, and damage is named."""

from dataclasses import replace
from pathlib import Path

import models  # noqa: F401  makes Chainer importable

# isort: split
import numpy as np
import pytest
from PIL import Image

from objectives.baselines import random_sign
from objectives.data import DataSet, Split, load
from objectives.files import (
    images,
    largest_changes,
    read_adversarial,
    recorded,
    write_images,
)
from study.errors import DataError, UsageError
from study.launch import run

RNG = np.random.default_rng(0)


def some(count: int, channels: int = 3) -> Split:
    pixels = RNG.integers(0, 256, (count, channels, 8, 9), dtype=np.uint8)
    return Split(pixels, (np.arange(count) % 3).astype(np.int32))


@pytest.fixture
def colours() -> DataSet:
    return DataSet("colours", ("red", "1", "crane, blue"), some(30), some(9), some(12))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_written_data_set_is_read_as_it_was(channels, tmp_path) -> None:
    sets = (some(30, channels), some(9, channels), some(12, channels))
    data = DataSet("d", ("crane, blue", "1", "0"), *sets)
    assert write_images(data, tmp_path / "out", ("train", "tune", "report"), None) == 51
    again = load(f"folder:{tmp_path / 'out'}")
    assert again.digest == data.digest
    assert again.report.names == tuple(f"report/{k:05d}.png" for k in range(12))


def test_classes_of_one_name_are_numbered(colours, tmp_path) -> None:
    data = replace(colours, classes=("crane", "owl", "crane"))
    write_images(data, tmp_path, ("train", "tune", "report"), None)
    again = load(f"folder:{tmp_path}")
    assert again.classes == ("crane (0)", "owl", "crane (2)")
    np.testing.assert_array_equal(again.report.labels, data.report.labels)


def test_some_images_keep_their_names(colours, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("objectives.files.load", lambda text: colours)
    assert run(["colours", str(tmp_path), "--images", "4"], images) == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path}\n"
    assert said.err == f"4 images in {tmp_path}\n"
    few = colours.report.evenly(4)
    assert few.names == ("00000.png", "00003.png", "00007.png", "00011.png")
    assert sorted(p.name for p in tmp_path.glob("*.png")) == [*few.names]
    np.testing.assert_array_equal(read_adversarial(tmp_path, few), few.images)
    assert (tmp_path / "labels.csv").read_text().splitlines()[:2] == ["file,label", "00000.png,red"]


def test_names_of_the_nips17_images_are_the_contest_s(real_data) -> None:
    split = load(f"nips17:{real_data / 'nips17_dev'}").report
    assert len(set(split.names)) == len(split.labels)
    assert all((real_data / "nips17_dev" / "images" / name).is_file() for name in split.names)


def test_names_of_a_folder_are_those_of_its_files_as_png(tmp_path) -> None:
    rows = ["file,label,split"]
    for k, split in enumerate(("train", "tune", "report")):
        name = f"{split}/photo {k}.jpeg"
        (tmp_path / split).mkdir()
        Image.fromarray(np.full((8, 8), 40 * k, np.uint8)).save(tmp_path / name)
        rows.append(f"{name},{k},{split}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    assert load(f"folder:{tmp_path}").report.names == ("report/photo 2.png",)


@pytest.mark.parametrize("count", [0, 13])
def test_more_images_than_there_are_cannot_be_chosen(colours, count) -> None:
    with pytest.raises(DataError) as raised:
        colours.report.evenly(count)
    assert str(raised.value) == f"{count} images are wanted, and there are 12"


def test_one_name_per_image() -> None:
    with pytest.raises(DataError, match=r"^1 names were given for 2 images$"):
        Split(np.zeros((2, 1, 2, 2), np.uint8), np.zeros(2, np.int32), ("a.png",))


def test_a_folder_that_holds_something_is_left_alone(colours, tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(UsageError) as raised:
        write_images(colours, tmp_path, ("report",), None)
    assert str(raised.value) == (
        f"folder {str(tmp_path)!r} holds something already; name a new or empty one"
    )


@pytest.fixture
def written(colours, tmp_path) -> Path:
    write_images(colours, tmp_path / "clean", ("report",), None)
    return tmp_path / "clean"


def test_missing_images_are_counted(colours, written) -> None:
    for k in (2, 5):
        (written / f"{k:05d}.png").unlink()
    with pytest.raises(DataError) as raised:
        read_adversarial(written, colours.report)
    assert str(raised.value) == (
        f"adversarial folder {str(written)!r} lacks 2 of 12 images, such as 00002.png; it holds PNG "
        "files of the names that `jigsaw images` writes, and --images says how many"
    )


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.zeros((9, 9, 3), np.uint8), "00003.png is 9x9 RGB: expected 9x8 RGB"),
        (np.zeros((8, 9), np.uint8), "00003.png is 9x8 L: expected 9x8 RGB"),
        (np.zeros((8, 9, 4), np.uint8), "00003.png has mode RGBA: expected 8-bit RGB, or L (grey)"),
    ],
)
def test_images_of_another_shape_are_refused(colours, written, pixels, said) -> None:
    Image.fromarray(pixels).save(written / "00003.png")
    with pytest.raises(DataError) as raised:
        read_adversarial(written, colours.report)
    assert str(raised.value) == f"{written}/{said}"


def test_a_folder_of_grey_images_is_no_attack_on_colours(colours, tmp_path) -> None:
    for name in colours.report.names:
        Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / name)
    with pytest.raises(DataError) as raised:
        read_adversarial(tmp_path, colours.report)
    assert str(raised.value) == (
        f"adversarial folder {str(tmp_path)!r} holds images of 1 channels; the clean ones have 3"
    )


def test_what_was_recorded_is_found_in_any_order(colours) -> None:
    clean = colours.report.images
    adversarial = random_sign(clean, 8)
    chosen = np.array([7, 2, 2, 11])
    found = recorded(adversarial, clean)(clean[chosen], 4)
    np.testing.assert_array_equal(found, adversarial[chosen])


def test_the_largest_change_of_each_image() -> None:
    clean = np.full((3, 1, 2, 2), 100, np.uint8)
    moved = clean.copy()
    moved[0, 0, 0, 0], moved[1, 0, 1, 1] = 0, 255
    assert largest_changes(moved, clean).tolist() == [100, 155, 0]
