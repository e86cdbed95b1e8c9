"""Data sets: laws every one keeps, layouts that must agree, and broken files with their errors."""

import gzip
import io
import re
import socket
import tarfile
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from objectives.data import DataSet, Split, cifar10, fashion_mnist, load, patches
from objectives.data.packaged import packaged
from objectives.data.stratify import content_order, stratified
from study.errors import DataError, UsageError

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (120, 3, 32, 32), np.uint8)
GREY = RANDOM.integers(0, 256, (120, 1, 28, 28), np.uint8)
LABELS = (np.arange(120) % 10).astype(np.uint8)
IDS = [f"image{k:02}" for k in range(12)]
SPLITS = ("train", "tune", "report")


def write_npz(path: Path, images, **changes) -> Path:
    parts = {"x_train": images[:100], "y_train": LABELS[:100]}
    parts |= {"x_test": images[100:], "y_test": LABELS[100:]} | changes
    np.savez(path, **{key: value for key, value in parts.items() if value is not None})
    return path


def write_bin(path: Path) -> Path:
    path.mkdir()
    records = np.concatenate([LABELS[:, None], COLOUR.reshape(120, -1)], 1)
    for name, part in zip((*cifar10._TRAIN, *cifar10._TEST), np.split(records, 6), strict=True):
        (path / name).write_bytes(part.tobytes())
    (path / "batches.meta.txt").write_text("\n".join(cifar10.CLASSES) + "\n\n")
    return path


def write_tar(path: Path, folder: Path, top: str = "cifar-10-batches-bin") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, top)
    return path


def write_idx(path: Path, packed: bool = False) -> Path:
    path.mkdir()
    for half, rows in (("train", slice(0, 100)), ("t10k", slice(100, 120))):
        for name, array in (("images-idx3", GREY[rows, 0]), ("labels-idx1", LABELS[rows])):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            data = header + array.tobytes()
            file = path / f"{half}-{name}-ubyte{'.gz' if packed else ''}"
            file.write_bytes(gzip.compress(data) if packed else data)
    return path


def write_images(path: Path, names, images) -> None:
    path.mkdir(parents=True)
    for name, image in zip(names, images, strict=False):
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        Image.fromarray(pixels).save(path / name)


def write_folder(path: Path, split: bool = False) -> Path:
    names = [f"{k:02}.png" for k in range(30)]
    write_images(path, names, COLOUR)
    lines = [f"{name},{'cat' if k % 2 else 'ant'}" for k, name in enumerate(names)]
    if split:
        lines = [f"{line},{SPLITS[k % 3]}" for k, line in enumerate(lines)]
    header = "file,label" + ",split" * split
    (path / "labels.csv").write_text("\n".join([header, *lines]) + "\n")
    return path


def write_nips17(path: Path) -> Path:
    images = [np.full((3, 299, 299), k, np.uint8) for k in range(12)]
    write_images(path / "images", [f"{name}.png" for name in IDS], images)
    rows = [f"{name},{k * 90 + 1},7" for k, name in enumerate(IDS)]
    (path / "dev_dataset.csv").write_text("\n".join(["ImageId,TrueLabel,TargetClass", *rows]))
    return path


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    assert cifar10._RECORDS == 10_000
    monkeypatch.setattr(cifar10, "_RECORDS", 20)


WRITERS: dict[str, Callable[[Path], str]] = {
    "patches": lambda _: "patches",
    "digits": lambda _: "digits",
    "own": lambda p: (
        (p / "own.py").write_text("from objectives.data.digits import load as make\n")
        and f"{p / 'own.py'}:make"
    ),
    "npz": lambda p: f"cifar10:{write_npz(p / 'c.npz', COLOUR)}",
    "npz NHWC": lambda p: f"cifar10:{write_npz(p / 'c.npz', COLOUR.transpose(0, 2, 3, 1))}",
    "bin": lambda p: f"cifar10:{write_bin(p / 'c')}",
    "tar": lambda p: f"cifar10:{write_tar(p / 'c.tar.gz', write_bin(p / 'c'))}",
    "fashion npz": lambda p: f"fashion_mnist:{write_npz(p / 'f.npz', GREY)}",
    "fashion npz NHW": lambda p: f"fashion_mnist:{write_npz(p / 'f.npz', GREY[:, 0])}",
    "fashion npz NHWC": lambda p: f"fashion_mnist:{write_npz(p / 'f.npz', GREY[..., None][:, 0])}",
    "idx": lambda p: f"fashion_mnist:{write_idx(p / 'f')}",
    "idx.gz": lambda p: f"fashion_mnist:{write_idx(p / 'f', packed=True)}",
    "folder": lambda p: f"folder:{write_folder(p / 'd')}",
    "folder with splits": lambda p: f"folder:{write_folder(p / 'd', split=True)}",
    "nips17": lambda p: f"nips17:{write_nips17(p / 'n')}",
}
SIZES = {
    "patches": (4500, 550, 1000, (3, 32, 32), 10),
    "digits": (1198, 300, 299, (1, 8, 8), 10),
    "own": (1198, 300, 299, (1, 8, 8), 10),
    **dict.fromkeys(("npz", "npz NHWC", "bin", "tar"), (90, 10, 20, (3, 32, 32), 10)),
    **dict.fromkeys(
        ("fashion npz", "fashion npz NHW", "fashion npz NHWC", "idx", "idx.gz"),
        (90, 10, 20, (1, 28, 28), 10),
    ),
    "folder": (24, 4, 2, (3, 32, 32), 2),
    "folder with splits": (10, 10, 10, (3, 32, 32), 2),
    "nips17": (6, 4, 2, (3, 299, 299), 1001),
}


def pixels(split: Split) -> set[bytes]:
    return {image.tobytes() for image in split.images}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_data_set_keeps_the_laws(kind, tmp_path):
    text = WRITERS[kind](tmp_path)
    data = load(text)
    *counts, shape, classes = SIZES[kind]
    splits = [getattr(data, word) for word in SPLITS]
    assert (data.name, len(data.classes)) == (text, classes)
    assert [len(split.labels) for split in splits] == counts
    for split in splits:
        assert (split.images.shape[1:], split.images.dtype) == (shape, np.uint8)
        assert split.labels.dtype == np.int32
        assert not split.images.flags.writeable
        assert not split.labels.flags.writeable
    assert all(pixels(a).isdisjoint(pixels(b)) for a, b in combinations(splits, 2))
    assert load(text) is data
    load.cache_clear()
    assert load(text).digest == data.digest


@pytest.mark.parametrize(
    "kinds",
    [
        ("npz", "npz NHWC", "bin", "tar"),
        ("fashion npz", "fashion npz NHW", "fashion npz NHWC", "idx", "idx.gz"),
    ],
)
def test_layouts_of_the_same_images_agree(kinds, tmp_path):
    digests = set()
    for k, kind in enumerate(kinds):
        (tmp_path / str(k)).mkdir()
        digests.add(load(WRITERS[kind](tmp_path / str(k))).digest)
    assert len(digests) == 1


def test_images_keep_their_labels(tmp_path):
    data = load(f"cifar10:{write_npz(tmp_path / 'c.npz', COLOUR)}")
    label = {image.tobytes(): k for image, k in zip(COLOUR, LABELS, strict=True)}
    for split in (data.train, data.tune, data.report):
        assert [label[image.tobytes()] for image in split.images] == split.labels.tolist()
    assert np.bincount(data.tune.labels).tolist() == [1] * 10
    assert np.array_equal(data.report.images, COLOUR[100:])


def test_at_most_a_thousand_images_are_held_out(tmp_path):
    many = np.zeros((12_000, 28, 28), np.uint8)
    many.reshape(12_000, -1)[:, :2] = np.arange(12_000, dtype=np.uint16)[:, None].view(np.uint8)
    labels = np.arange(12_000) % 10
    path = write_npz(tmp_path / "f.npz", GREY, x_train=many, y_train=labels)
    data = load(f"fashion_mnist:{path}")
    assert np.bincount(data.tune.labels).tolist() == [100] * 10
    assert len(data.train.labels) == 11_000


def rewrite(file: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1))

    return edit


@pytest.mark.parametrize(
    ("classes", "labels", "expected", "shown"),
    [
        (None, ("ant", "cat"), ("ant", "cat"), ("ant", "cat")),
        (None, ("0", "1"), ("0", "1"), ("0", "1")),
        ("cat\nant\n", ("ant", "cat"), ("cat", "ant"), ("ant", "cat")),
        ("cat\nant\ndog\n", ("1", "2"), ("cat", "ant", "dog"), ("ant", "dog")),
    ],
)
def test_folder_classes(classes, labels, expected, shown, tmp_path):
    path = write_folder(tmp_path / "d", split=True)
    table = (path / "labels.csv").read_text()
    (path / "labels.csv").write_text(table.replace("ant", labels[0]).replace("cat", labels[1]))
    if classes:
        (path / "classes.txt").write_text(classes)
    data = load(f"folder:{path}")
    assert data.classes == expected
    # Rows alternate between the first label and the second, and every third row is for train.
    assert [data.classes[k] for k in data.train.labels] == list(shown) * 5
    assert np.array_equal(data.train.images, COLOUR[0:30:3])


@pytest.mark.parametrize(
    ("name", "line", "expected"),
    [
        ("labels.txt", "{k:4}  thing {k}", "thing 91"),
        ("imagenet_labels_1001.txt", "thing {k}", "thing 91"),
        ("labels.txt", "{k}: thing", "thing"),
        ("other.txt", "thing {k}", "class 91"),
    ],
)
def test_nips17_class_names(name, line, expected, tmp_path):
    path = write_nips17(tmp_path / "n")
    (path / name).write_text("\n".join(line.format(k=k) for k in range(1001)))
    data = load(f"nips17:{path}")
    assert data.classes[91] == expected
    labels = sorted(k for word in SPLITS for k in getattr(data, word).labels)
    assert labels == [k * 90 + 1 for k in range(12)]


def test_nips17_splits_a_part_like_the_whole(tmp_path):
    path = write_nips17(tmp_path / "n")
    whole = load(f"nips17:{path}")
    lines = (path / "dev_dataset.csv").read_text().splitlines()
    (path / "dev_dataset.csv").write_text("\n".join([lines[0], *lines[:2:-1]]))
    load.cache_clear()
    part = load(f"nips17:{path}")
    for word in SPLITS:
        assert pixels(getattr(part, word)) <= pixels(getattr(whole, word))
    assert part.digest != whole.digest


# Broken files: how to write a whole data set, how to break it, what the error says.


def broken_npz(**changes) -> Callable[[Path], str]:
    return lambda p: f"cifar10:{write_npz(p / 'c.npz', COLOUR, **changes)}"


def broken_bytes(text: str, file: str, size: int | None, data: bytes = b"") -> Callable:
    """Cut a file of the data set to `size` bytes (None: remove it), then append `data`."""

    def write(folder: Path) -> str:
        named = WRITERS[text](folder)
        path = folder / file
        kept = path.read_bytes()
        path.unlink()
        if size is not None:
            path.write_bytes(kept[:size] + data)
        return named

    return write


def broken_table(kind: str, file: str, old: str, new: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        named = WRITERS[kind](folder)
        rewrite(file, old, new)(folder)
        return named

    return write


def broken_image(kind: str, file: str, image: Image.Image) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        named = WRITERS[kind](folder)
        image.save(folder / file)
        return named

    return write


def python_tar(folder: Path) -> str:
    (folder / "py").mkdir()
    for name in ("batches.meta", "data_batch_1", "test_batch"):
        (folder / "py" / name).write_bytes(b"\x80\x04.")
    return f"cifar10:{write_tar(folder / 'c.tar.gz', folder / 'py', 'cifar-10-batches-py')}"


def python_folder(folder: Path) -> str:
    python_tar(folder)
    return f"cifar10:{folder / 'py'}"


def plain_npy(folder: Path) -> str:
    buffer = io.BytesIO()
    np.save(buffer, COLOUR)
    (folder / "c.npz").write_bytes(buffer.getvalue())
    return f"cifar10:{folder / 'c.npz'}"


def short_tar(folder: Path) -> str:
    WRITERS["tar"](folder)
    with (folder / "c.tar.gz").open("r+b") as file:
        file.truncate(100_000)
    return f"cifar10:{folder / 'c.tar.gz'}"


def few_images(folder: Path) -> str:
    path = write_folder(folder / "d")
    lines = (path / "labels.csv").read_text().splitlines()
    (path / "labels.csv").write_text("\n".join(lines[:4]))
    return f"folder:{path}"


def odd_names(folder: Path) -> str:
    (write_nips17(folder / "n") / "labels.txt").write_text("one\ntwo\n")
    return f"nips17:{folder / 'n'}"


def latin_names(folder: Path) -> str:
    (write_folder(folder / "d") / "classes.txt").write_bytes(b"ant\n\xe9\n")
    return f"folder:{folder / 'd'}"


def twice_named(folder: Path) -> str:
    (write_folder(folder / "d") / "classes.txt").write_text("ant\nant\n")
    return f"folder:{folder / 'd'}"


SMALL = Image.new("RGB", (16, 16))
BROKEN = {
    "no file": (lambda p: f"cifar10:{p / 'c.npz'}", "does not exist: expected the official binary"),
    "other file": (
        lambda p: f"cifar10:{write_npz(p / 'c.npz', COLOUR).rename(p / 'c.zip')}",
        "c.zip is none of these: expected the official binary archive (.tar.gz), the folder it",
    ),
    "npz is npy": (plain_npy, "c.npz is not an npz file"),
    "npz cut": (broken_bytes("npz", "c.npz", 9_000), "c.npz is not an npz file or is truncated"),
    "npz key": (broken_npz(y_test=None), "c.npz has no y_test: it has x_train, y_train, x_test"),
    "npz pickle": (broken_npz(y_train=np.array([{}])), "pickled objects, which are never opened"),
    "npz type": (broken_npz(x_train=COLOUR / 255), "x_train is float64 (120, 3, 32, 32): expected"),
    "npz shape": (broken_npz(x_test=GREY), "x_test is uint8 (120, 1, 28, 28): expected uint8 (N"),
    "npz none": (broken_npz(x_test=COLOUR[:0]), "x_test is uint8 (0, 3, 32, 32): expected"),
    "npz labels": (broken_npz(y_test=LABELS), "labels are uint8 (120,): expected integers (20,)"),
    "npz floats": (broken_npz(y_test=LABELS[:20] / 1), "labels are float64 (20,): expected integ"),
    "npz range": (broken_npz(y_train=LABELS[:100] + 1), "label 10 is out of range: 10 classes all"),
    "npz minus": (broken_npz(y_train=LABELS[:100].astype(int) - 1), "label -1 is out of range: 10"),
    "npz few": (
        broken_npz(x_train=COLOUR[:9], y_train=LABELS[:9]),
        "9 images are too few to split in shares of 0.1, 0.9 in every class",
    ),
    "bin none": (broken_bytes("bin", "c/data_batch_3.bin", None), "c has no data_batch_3.bin: exp"),
    "bin cut": (
        broken_bytes("bin", "c/test_batch.bin", 3073),
        "c: test_batch.bin has 3073 bytes: expected 61460",
    ),
    "bin label": (
        broken_bytes("bin", "c/test_batch.bin", 19 * 3073, b"\x0a" + b"\0" * 3072),
        "c: label 10 is out of range",
    ),
    "bin names": (
        broken_table("bin", "c/batches.meta.txt", "cat\ndeer", "deer\ncat"),
        "batches.meta.txt names airplane, automobile, bird, deer, cat",
    ),
    "tar cut": (short_tar, "c.tar.gz is damaged or truncated"),
    "tar none": (broken_bytes("tar", "c.tar.gz", 0), "c.tar.gz is damaged or truncated"),
    "tar pickle": (python_tar, "Python archive, a pickle, which is never opened: take the binary"),
    "folder pickle": (python_folder, "py is the official Python archive, a pickle"),
    "idx none": (broken_bytes("idx", "f/t10k-labels-idx1-ubyte", None), "has no t10k-labels-idx1"),
    "idx cut": (
        broken_bytes("idx", "f/train-images-idx3-ubyte", 16 + 784),
        "train-images-idx3-ubyte has 784 bytes of data: expected 78400 for [100, 28, 28]",
    ),
    "idx header": (broken_bytes("idx", "f/train-images-idx3-ubyte", 9), "is no idx file of bytes"),
    "idx axes": (
        broken_bytes("idx", "f/t10k-labels-idx1-ubyte", 0, b"\0\0\x08\x03" + b"\0" * 12),
        "is no idx file of bytes with 1 axes: it starts '00000803'",
    ),
    "idx size": (
        broken_bytes(
            "idx", "f/t10k-images-idx3-ubyte", 0, b"\0\0\x08\x03" + b"\0\0\0\1" * 3 + b"0"
        ),
        "t10k-images-idx3-ubyte holds (1, 1, 1, 1): expected (N, 1, 28, 28)",
    ),
    "idx label": (
        broken_bytes("idx", "f/t10k-labels-idx1-ubyte", 27, b"\x0c"),
        "t10k-labels-idx1-ubyte: label 12 is out of range",
    ),
    "gz cut": (
        broken_bytes("idx.gz", "f/train-images-idx3-ubyte.gz", 999),
        "gz is damaged or trun",
    ),
    "fashion": (
        lambda p: f"fashion_mnist:{p / 'f'}",
        "f does not exist: expected an .npz, or a fol",
    ),
    "no table": (
        broken_bytes("folder", "d/labels.csv", None),
        "d/labels.csv does not exist: expect",
    ),
    "empty table": (
        broken_bytes("folder", "d/labels.csv", 0),
        "no column file, label: it has noth",
    ),
    "no row": (broken_bytes("folder", "d/labels.csv", 11), "labels.csv has no row: expected one"),
    "latin": (
        broken_bytes("folder", "d/labels.csv", 20, b"\xe9\n"),
        "labels.csv is no CSV in UTF-8",
    ),
    "quote": (broken_table("folder", "d/labels.csv", "00.png", '"00.png'), "is no CSV in UTF-8"),
    "column": (
        broken_table("folder", "d/labels.csv", "label", "kind"),
        "no column label: it has fi",
    ),
    "fields": (
        broken_table("folder", "d/labels.csv", "01.png,cat", "01.png"),
        "labels.csv line 3 has 1 fields: expected 2",
    ),
    "empty field": (
        broken_table("folder", "d/labels.csv", "01.png,cat", "01.png, "),
        "labels.csv line 3: label is empty",
    ),
    "file twice": (
        broken_table("folder", "d/labels.csv", "01.png", "00.png"),
        "labels.csv line 3: file '00.png' is also on line 2",
    ),
    "unknown file": (
        broken_table("folder", "d/labels.csv", "01.png", "nine.png"),
        "nine.png does not exist: expected a PNG or JPEG image",
    ),
    "outside": (
        broken_table("folder", "d/labels.csv", "01.png", "../01.png"),
        "labels.csv line 3: file '../01.png' must lie inside",
    ),
    "split": (
        broken_table("folder with splits", "d/labels.csv", "tune", "test"),
        "labels.csv line 3: split 'test' is unknown: expected train, tune, report",
    ),
    "no tune": (
        broken_bytes(
            "folder with splits", "d/labels.csv", 0, b"file,label,split\n00.png,a,train\n"
        ),
        "no row has split tune: expected train, tune, report",
    ),
    "same image": (
        broken_image(
            "folder with splits", "d/02.png", Image.fromarray(COLOUR[0].transpose(1, 2, 0))
        ),
        "00.png and 02.png are the same image in train and report",
    ),
    "few": (few_images, "labels.csv: 3 images are too few to split in shares of 0.8, 0.1, 0.1"),
    "same class": (twice_named, "classes.txt names ant, ant: expected distinct names"),
    "latin class": (latin_names, "classes.txt is no text in UTF-8"),
    "label gap": (
        broken_bytes("folder", "d/labels.csv", 0, b"file,label\n00.png,0\n01.png,7\n"),
        "labels.csv line 3: label '7' is out of range: expected 0..1 or one of 0, 1",
    ),
    "label minus": (
        broken_bytes("folder", "d/labels.csv", 0, b"file,label\n00.png,0\n01.png,-1\n"),
        "labels.csv line 3: label '-1' is out of range: expected 0..1 or one of 0, 1",
    ),
    "image size": (
        broken_image("folder", "d/05.png", SMALL),
        "05.png is 16x16 RGB: expected 32x32 RGB",
    ),
    "image grey": (
        broken_image("folder", "d/05.png", Image.new("L", (32, 32))),
        "05.png is 32x32 L: expected 32x32 RGB",
    ),
    "image mode": (
        broken_image("folder", "d/05.png", Image.new("RGBA", (32, 32))),
        "05.png has mode RGBA: expected 8-bit RGB, or L (grey)",
    ),
    "image cut": (broken_bytes("folder", "d/05.png", 900), "05.png is damaged or truncated"),
    "image text": (broken_bytes("folder", "d/05.png", 0, b"GIF89a"), "is no PNG or JPEG image"),
    "nips17 none": (lambda p: f"nips17:{p}", "dev_dataset.csv does not exist: expected a CSV with"),
    "nips17 label": (
        broken_table("nips17", "n/dev_dataset.csv", "image00,1,", "image00,1001,"),
        "dev_dataset.csv line 2: TrueLabel '1001' is out of range: expected 0..1000",
    ),
    "nips17 id": (
        broken_table("nips17", "n/dev_dataset.csv", "image00", "../image00"),
        "dev_dataset.csv line 2: ImageId '../image00': expected letters and digits",
    ),
    "nips17 image": (
        broken_bytes("nips17", "n/images/image03.png", None),
        "image03.png does not exist",
    ),
    "nips17 size": (
        broken_image("nips17", "n/images/image00.png", SMALL),
        "image00.png is 16x16 RGB: expected 299x299 RGB",
    ),
    "nips17 names": (odd_names, "labels.txt has 2 lines: expected 1001 class names"),
    "nips17 few": (
        broken_bytes("nips17", "n/dev_dataset.csv", 41),
        "dev_dataset.csv: 1 images are too few for train, tune and report",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_named_in_one_sentence(case, tmp_path):
    write, expected = BROKEN[case]
    text = write(tmp_path)
    with pytest.raises(DataError, match=re.escape(expected)) as caught:
        load(text)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "\n" not in message


def test_nips17_images_are_coloured(tmp_path):
    path = write_nips17(tmp_path / "n")
    for name in IDS:
        Image.new("L", (299, 299)).save(path / "images" / f"{name}.png")
    with pytest.raises(DataError, match="images holds grey images: expected RGB"):
        load(f"nips17:{path}")


def not_a_data_set() -> int:
    return 3


ME = "tests.objectives_tests.test_data"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cifar", "data set 'cifar': expected package.module:Name or path/to/file.py:Name; a data"),
        (
            "mnist:x",
            "'mnist' cannot be imported: ModuleNotFoundError: No module named 'mnist'; a data set is patches, ",
        ),
        (
            "",
            "a data set is patches, digits, cifar10:PATH, fashion_mnist:PATH, folder:PATH, nips17",
        ),
        ("patches:x", "data set 'patches:x': patches takes no path; write 'patches'"),
        ("folder", "data set 'folder' lacks its path: expected folder:PATH"),
        ("nips17:", "data set 'nips17:' lacks its path: expected nips17:PATH"),
        (f"{ME}:IDS", "test_data:IDS' is a list: expected a function"),
        (f"{ME}:not_a_data_set", "not_a_data_set' returned a int: expected a DataSet"),
    ],
)
def test_other_texts_are_refused(text, expected):
    with pytest.raises(UsageError, match=re.escape(expected)):
        load(text)


IMAGES = np.zeros((2, 3, 4, 5), np.uint8)
ZEROS = np.zeros(2, np.int32)


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        (IMAGES.tolist(), ZEROS, "images are of type list: expected a uint8 array (N, C, H, W)"),
        (IMAGES / 1, ZEROS, "images are float64 (2, 3, 4, 5): expected a uint8 array"),
        (IMAGES[0], ZEROS, "images are uint8 (3, 4, 5): expected a uint8 array (N, C, H, W)"),
        (IMAGES.transpose(0, 2, 3, 1), ZEROS, "uint8 (2, 4, 5, 3): expected (N, C, H, W) with C 1"),
        (IMAGES[:0], ZEROS[:0], "images are uint8 (0, 3, 4, 5): expected at least one image"),
        (IMAGES[..., :0], ZEROS, "images are uint8 (2, 3, 4, 0): expected at least one image"),
        (IMAGES, [0, 0], "labels are of type list: expected an int32 array (2,)"),
        (IMAGES, ZEROS.astype(np.int64), "labels are int64 (2,): expected an int32 array (2,)"),
        (IMAGES, ZEROS[:1], "labels are int32 (1,): expected an int32 array (2,)"),
        (IMAGES, ZEROS - 1, "label -1 is out of range: expected at least 0"),
    ],
)
def test_split_refuses(images, labels, expected):
    with pytest.raises(DataError, match=re.escape(expected)):
        Split(images, labels)


GOOD = Split(IMAGES, ZEROS)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"classes": ()}, "classes are (): expected a tuple of one or more names"),
        ({"classes": ["a"]}, "classes are ['a']: expected a tuple"),
        ({"classes": ("a", "")}, "classes are ('a', ''): expected a tuple"),
        ({"tune": Split(IMAGES, ZEROS + 1)}, "tune label 1 is out of range: 1 classes allow 0..0"),
        (
            {"report": Split(IMAGES[:, :1], ZEROS)},
            "report images are (1, 4, 5) and train images (3, 4, 5): expected one (C, H, W)",
        ),
    ],
)
def test_data_set_refuses(changes, expected):
    parts = {"name": "n", "classes": ("a",), "train": GOOD, "tune": GOOD, "report": GOOD}
    DataSet(**parts)
    with pytest.raises(DataError, match=re.escape(expected)):
        DataSet(**(parts | changes))


def test_a_split_cannot_be_written_and_leaves_its_arrays_alone():
    images, labels = IMAGES.copy(), ZEROS.copy()
    split = Split(images, labels)
    images[:] = labels[:] = 7
    assert not split.images.any()
    assert not split.labels.any()
    assert Split(split.images, split.labels).images is split.images
    with pytest.raises(ValueError, match="read-only"):
        split.images[0] = 1
    with pytest.raises(FrozenInstanceError):
        split.labels = labels


@pytest.mark.parametrize(("count", "chosen"), [(1, [0]), (3, [0, 4, 9]), (10, list(range(10)))])
def test_images_are_taken_evenly_from_a_sorted_split(count, chosen):
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    part = Split(images, np.arange(10, dtype=np.int32)).evenly(count)
    assert part.labels.tolist() == part.images.ravel().tolist() == chosen


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"name": "other"}, True),
        ({"classes": ("a", "c")}, False),
        ({"tune": Split(IMAGES + 1, ZEROS)}, False),
        ({"report": Split(IMAGES, ZEROS + 1)}, False),
        ({"train": Split(IMAGES[:1], ZEROS[:1])}, False),
        ({part: Split(IMAGES.reshape(2, 3, 5, 4), ZEROS) for part in SPLITS}, False),
    ],
)
def test_digest_sees_images_labels_and_classes_only(changes, same):
    parts = {"name": "n", "classes": ("a", "b"), "train": GOOD, "tune": GOOD, "report": GOOD}
    digest = DataSet(**parts).digest
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert (DataSet(**(parts | changes)).digest == digest) == same


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 40), st.just(1), st.just(1), st.just(2))),
    st.randoms(use_true_random=False),
)
def test_content_order_does_not_hang_on_the_order_given(images, random):
    mixed = list(range(len(images)))
    random.shuffle(mixed)
    order = content_order(images)
    assert sorted(order) == list(range(len(images)))
    assert np.array_equal(images[order], images[mixed][content_order(images[mixed])])


@given(
    st.lists(st.integers(0, 3), min_size=4, max_size=80),
    st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.5), (0.1, 0.9), (1 / 3, 1 / 3, 1 / 3)]),
)
def test_stratified_deals_every_image_once_and_every_class_alike(labels, shares):
    labels = np.array(labels + [9] * 20, np.int32)
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    parts = stratified(images, labels, shares, "numbers")
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    for part, share in zip(parts, shares, strict=True):
        assert np.array_equal(part, np.sort(part))
        for label in np.unique(labels):
            assert abs(np.sum(labels[part] == label) - share * np.sum(labels == label)) <= 1


@pytest.mark.parametrize(("height", "width", "seed"), [(480, 480, 0), (400, 576, 7), (371, 621, 3)])
def test_patches_of_two_splits_share_no_pixel(height, width, seed):
    marked = np.empty((height, width, 3), np.float32)
    marked[:] = np.arange(height * width, dtype=np.float32).reshape(height, width, 1)
    parts = patches.cut(marked, seed, "marked")
    assert [part.shape for part in parts] == [(n, 3, 32, 32) for n in patches.COUNTS]
    for a, b in combinations(parts, 2):
        assert not np.intersect1d(a, b).size
    for part in parts:
        corners = part[:, 0, 0, 0]
        assert len(np.unique(corners)) == len(corners)
        steps = np.arange(32)[:, None] * width + np.arange(32)
        assert np.array_equal(part[:, 1], corners[:, None, None] + steps)
    again = patches.cut(marked, seed, "marked")
    other = patches.cut(marked, seed + 1, "marked")
    assert np.array_equal(parts[0], again[0])
    assert not np.array_equal(parts[0], other[0])


def test_patches_without_content_are_left_out():
    noise = RANDOM.integers(0, 256, (960, 480, 1)).astype(np.float32) * np.ones(3, np.float32)
    noise[:480] = 100 + noise[:480] / 255 * 20  # a deviation of 6: nearly flat
    for part in patches.cut(noise, 0, "half"):
        assert part.std((1, 2, 3)).min() >= 8
    with pytest.raises(DataError, match="photograph flat has 0 crops: expected 450"):
        patches.cut(np.full((480, 480, 3), 9, np.float32), 0, "flat")


def test_patches_give_no_class_away_by_its_colours():
    data = load("patches")
    for split, count in zip((data.train, data.tune, data.report), patches.COUNTS, strict=True):
        assert np.bincount(split.labels).tolist() == [count] * 10
    colours = data.train.images.mean((2, 3)).reshape(10, -1, 3).mean(1)
    nearest = data.tune.images.mean((2, 3))[:, None] - colours
    right = (nearest**2).sum(2).argmin(1) == data.tune.labels
    assert right.mean() < 0.22  # 0.17; it is 0.33 of the photographs' own colours, 0.10 by chance


def test_even_colours_looks_at_train_only():
    train = RANDOM.uniform(60, 120, (50, 3, 8, 8)).astype(np.float32)
    train, same, other = patches.even_colours(train, train, train[:9] + 10)
    assert np.array_equal(train, same)
    assert np.allclose(train.mean((0, 2, 3)), 120, atol=1)
    assert np.allclose(train.std((0, 2, 3)), 55, atol=1)
    shift = other.astype(float).mean() - train[:9].mean()
    assert shift == pytest.approx(55 / (60 / 12**0.5) * 10, rel=0.1)


def test_digits_are_stretched_to_eight_bits():
    data = load("digits")
    values = np.unique(data.train.images)
    assert np.array_equal(values, np.rint(np.arange(17) * 255 / 16))
    assert {np.ptp(np.bincount(getattr(data, word).labels)) < 12 for word in SPLITS} == {True}


def test_embedded_data_open_no_connection(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError("no network")

    monkeypatch.setattr(socket, "socket", refuse)
    assert patches.load().classes == tuple(patches.PHOTOGRAPHS)


@pytest.mark.parametrize(
    ("package", "place"), [("skimage", "data/none.png"), ("no_such_package", "x")]
)
def test_packaged_names_what_is_missing(package, place):
    with pytest.raises(
        DataError, match=f"{package}/{place} is missing: expected it inside the inst"
    ):
        packaged(package, place)


REAL = {
    "cifar10:{}/cifar10_small.npz": ((9000, 1000, 2000), (3, 32, 32), cifar10.CLASSES),
    "fashion_mnist:{}/fashion_mnist.npz": ((59000, 1000, 5000), (1, 28, 28), fashion_mnist.CLASSES),
    "nips17:{}/nips17_dev": ((176, 67, 57), (3, 299, 299), None),
}


@pytest.mark.data
@pytest.mark.parametrize("text", REAL)
def test_real_data(text, real_data):
    counts, shape, classes = REAL[text]
    data = load(text.format(real_data))
    splits = (data.train, data.tune, data.report)
    assert [split.images.shape for split in splits] == [(count, *shape) for count in counts]
    assert all(pixels(a).isdisjoint(pixels(b)) for a, b in combinations(splits, 2))
    if classes:
        assert data.classes == classes
        assert np.bincount(data.tune.labels).tolist() == [100] * 10
