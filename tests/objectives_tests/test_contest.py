"""A folder of PNG in, a folder of PNG out: the files keep the budget, and damage writes nothing."""

from pathlib import Path

import models  # noqa: F401  makes Chainer importable

# isort: split
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from models.classifiers import build as build_classifier
from models.generators import Epsilons, build, parse_arch
from models.hints import Hint
from models.package import load_package, save_package
from models.released import RELEASED
from objectives.baselines import noop, random_sign
from objectives.contest import attack, attack_folder, find_images
from objectives.evaluation import network_attack
from study.errors import DataError, UsageError

RNG = np.random.default_rng(0)
SIZES = {"a": (8, 8), "b": (299, 299), "c": (299, 299), "d": (7, 31), "e": (1, 1), "f": (64, 64)}


def rough(images: np.ndarray, epsilon: int) -> np.ndarray:
    """An attack that forgets its budget."""
    return 255 - images


def write(path: Path, size=(8, 8), mode: str = "RGB") -> Path:
    depth = {"RGB": (3,), "L": (), "RGBA": (4,), "LA": (2,)}[mode]
    Image.fromarray(RNG.integers(0, 256, (*size, *depth), dtype=np.uint8), mode=None).save(path)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, size in SIZES.items():
        write(folder / f"{name}.png", size)
    (folder / "labels.csv").write_text("not an image")
    return folder


def pixels(path: Path, mode: str = "RGB") -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert(mode)).astype(int)


@pytest.mark.parametrize("epsilon", [0, 1, 16, 255])
@pytest.mark.parametrize("attack", [rough, random_sign, noop])
def test_files_of_any_size_keep_the_budget(source: Path, tmp_path: Path, attack, epsilon) -> None:
    out = tmp_path / "deep" / "out"
    written = list(attack_folder(attack, source, out, epsilon, channels=3))
    assert [p.name for p in written] == [f"{name}.png" for name in SIZES]
    assert sorted(p.name for p in out.iterdir()) == [f"{name}.png" for name in SIZES]
    for name, size in SIZES.items():
        clean, adversarial = pixels(source / f"{name}.png"), pixels(out / f"{name}.png")
        assert adversarial.shape == (*size, 3)
        assert np.abs(adversarial - clean).max() <= epsilon
    if attack is rough and epsilon:
        assert (pixels(out / "b.png") != pixels(source / "b.png")).mean() > 0.9


def test_a_network_attacks_every_size(source: Path, tmp_path: Path) -> None:
    network = build(parse_arch({"name": "resnet", "width": 4}), Epsilons(), channels=3, seed=0)
    out = tmp_path / "out"
    assert len(list(attack_folder(network_attack(network), source, out, 8, channels=3))) == 6
    for name in SIZES:
        moved = np.abs(pixels(out / f"{name}.png") - pixels(source / f"{name}.png"))
        assert moved.max() <= 8
        assert moved.max() > 0 or name == "e"  # one pixel may round to itself


def test_neighbours_of_one_size_go_in_batches_that_fit_in_memory(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for k in range(70):
        write(tmp_path / "in" / f"{k:02}.png", (64, 64))
    shapes = []
    list(
        attack_folder(
            lambda x, e: shapes.append(x.shape) or x, tmp_path / "in", tmp_path / "out", 4,
            channels=3,
        )
    )  # fmt: skip
    assert shapes == [(64, 3, 64, 64), (6, 3, 64, 64)]


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (
            "heads",
            "epsilon 20 is not one of the network's budgets; its perturbation for 16 is scaled",
        ),
        (
            "film",
            "epsilon 20 is not one of the network's budgets; its perturbation for 16 is scaled",
        ),
        (
            "single",
            "epsilon 20 is not one of the network's budgets; its perturbation for 9 is scaled",
        ),
        ("scaled", None),
    ],
)
def test_a_package_with_hints_attacks_with_nothing_beside_it(tmp_path: Path, mode, said) -> None:
    (tmp_path / "in").mkdir()
    clean = pixels(write(tmp_path / "in" / "x.png", (17, 30)))
    own = build_classifier("plain-w4", channels=3, classes=4, size=16, seed=0)
    network = build(
        parse_arch({"name": "recurrent", "width": 4}), Epsilons(mode=mode, single=9),
        channels=3, seed=0, hint=Hint("multiscale", "plain-w4", own),
    )  # fmt: skip
    save_package(tmp_path / "package", network, {})
    places = [str(tmp_path / name) for name in ("package", "in", "out")]
    done = CliRunner().invoke(attack, [*places, "20"])
    assert done.exit_code == 0, done.output
    assert (said in done.output) if said else ("not one of" not in done.output)
    further = CliRunner().invoke(attack, [*places[:2], f"{places[2]}-2", "20", "--steps", "2"])
    assert further.exit_code == 0, further.output
    moved = pixels(tmp_path / "out" / "x.png") != pixels(tmp_path / "out-2" / "x.png")
    assert moved.mean() > 0.1
    assert 0 < np.abs(pixels(tmp_path / "out" / "x.png") - clean).max() <= 20


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA"])
@pytest.mark.parametrize(("channels", "read"), [(3, "RGB"), (1, "L")])
def test_other_modes_are_read_as_the_network_needs(tmp_path: Path, mode, channels, read) -> None:
    (tmp_path / "in").mkdir()
    path = write(tmp_path / "in" / "x.PNG", (9, 5), "LA" if channels == 1 else mode)
    with Image.open(path) as image:
        image.convert(mode).save(path)
    (found,) = attack_folder(rough, tmp_path / "in", tmp_path / "out", 3, channels=channels)
    with Image.open(found) as image:
        assert image.mode == read
    moved = np.abs(pixels(found, read) - pixels(path, read))
    assert moved.max() == 3


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_not_taken_away(tmp_path: Path, mode) -> None:
    clean = tmp_path / "clean"
    clean.mkdir()
    write(clean / "a.png", mode="L")
    path = write(clean / "b.png", mode=mode)
    with pytest.raises(DataError) as raised:
        list(attack_folder(noop, clean, tmp_path / "out", 4, channels=1))
    said = (
        f"image {str(path)!r} has colours, and the network attacks grey images; make it grey first"
    )
    assert str(raised.value) == said
    assert not (tmp_path / "out").exists()


def damaged(folder: Path, kind: str) -> Path:
    path = folder / "z.png"
    if kind == "text":
        path.write_text("<html>")
    elif kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "16 bits":
        Image.fromarray(np.full((4, 4), 3000, np.uint16)).save(path)
    else:
        whole = write(path, (32, 32)).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    return path


@pytest.mark.parametrize("kind", ["text", "empty", "cut", "folder", "16 bits"])
def test_one_damaged_input_writes_nothing(source: Path, tmp_path: Path, kind) -> None:
    path = damaged(source, kind)
    with pytest.raises(DataError) as raised:
        list(attack_folder(noop, source, tmp_path / "out", 4, channels=3))
    text = str(raised.value)
    assert text.startswith(f"image {str(path)!r} cannot be read: ")
    assert text.endswith("; expected a whole PNG of 8 bits per channel")
    assert not (tmp_path / "out").exists()


def test_an_image_too_large_to_be_meant_is_refused(source: Path, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"b\.png' cannot be read: Image size"):
        find_images(source, 3)


@pytest.mark.parametrize(
    ("into", "epsilon", "said"),
    [
        ("in", 4, "is the input folder; name another"),
        ("in/../in", 4, "is the input folder; name another"),
        ("in/labels.csv", 4, "is a file; name another"),
        ("out", 256, "epsilon is 256; allowed: 0..255, in units of 1/255"),
        ("out", -1, "epsilon is -1; allowed: 0..255, in units of 1/255"),
    ],
)
def test_what_cannot_be_is_refused(source: Path, tmp_path: Path, into, epsilon, said) -> None:
    before = {p: p.read_bytes() for p in source.iterdir()}
    with pytest.raises(UsageError) as raised:
        list(attack_folder(rough, source, tmp_path / into, epsilon, channels=3))
    assert str(raised.value).endswith(said)
    assert {p: p.read_bytes() for p in source.iterdir()} == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("make", "said"),
    [(False, r"in' does not exist \(looked in"), (True, r"in' has no \.png files")],
)
def test_a_folder_without_images_is_named(tmp_path: Path, make, said) -> None:
    if make:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "photo.jpg").touch()
    with pytest.raises(DataError, match=said):
        list(attack_folder(noop, tmp_path / "in", tmp_path / "out", 4, channels=3))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_network_is_named_in_place_of_a_folder(name: str, tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    clean.mkdir()
    mode = {1: "L", 3: "RGB"}[load_package(Path(name))[1].channels]
    write(clean / "a.png", (32, 32), mode)
    given = [name, str(clean), str(tmp_path / "out"), "8"]
    assert CliRunner().invoke(attack, given).exit_code == 0
    change = np.abs(pixels(tmp_path / "out" / "a.png", mode) - pixels(clean / "a.png", mode))
    assert 0 < change.max() <= 8
