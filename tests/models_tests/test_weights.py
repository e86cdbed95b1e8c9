import io
import zipfile
from pathlib import Path

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import chainer.links as L
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models import weights
from study.errors import DataError


class Network(chainer.Chain):
    def __init__(self, seed: int = 0, width: int = 4) -> None:
        super().__init__()
        rng = np.random.RandomState(seed)
        with self.init_scope():
            self.conv = L.Convolution2D(
                3, width, 3, initialW=chainer.initializers.HeNormal(rng=rng)
            )
            self.norm = L.BatchNormalization(width)
            self.tail = chainer.ChainList(L.Linear(width, 2, initialW=rng.rand(2, width)))
        self.add_persistent("mean", rng.rand(1, 3, 1, 1).astype(np.float32))
        self.norm.avg_mean[:] = rng.rand(width)


NAMES = {
    "conv/W", "conv/b", "norm/gamma", "norm/beta", "norm/avg_mean", "norm/avg_var", "norm/N",
    "tail/0/W", "tail/0/b", "mean",
}  # fmt: skip


def changed(link: chainer.Chain, **arrays: np.ndarray | None) -> dict[str, np.ndarray]:
    """The arrays of `link`, with some replaced, added, or (None) left out; `__` stands for `/`."""
    found = dict(weights.arrays(link))
    for key, array in arrays.items():
        name = key.replace("__", "/")
        found.pop(name, None)
        if array is not None:
            found[name] = array
    return found


def test_arrays_name_parameters_and_persistent_values_by_path() -> None:
    assert list(weights.arrays(Network())) == sorted(NAMES)


def test_arrays_of_an_uninitialised_network_are_refused() -> None:
    with pytest.raises(DataError, match=r"parameter /W is not initialised: give its layer"):
        weights.arrays(L.Linear(None, 2))


def test_what_is_saved_is_loaded_whole(tmp_path: Path) -> None:
    saved, loaded = Network(seed=1), Network(seed=2)
    assert weights.digest(saved) != weights.digest(loaded)
    weights.save(tmp_path / "a.npz", saved)
    weights.load(tmp_path / "a.npz", loaded)
    assert weights.digest(saved) == weights.digest(loaded)
    for name, array in weights.arrays(saved).items():
        np.testing.assert_array_equal(weights.arrays(loaded)[name], array)


def test_loading_copies(tmp_path: Path) -> None:
    source, copy = Network(seed=1), Network(seed=2)
    weights.assign(copy, weights.arrays(source))
    source.conv.W.array[:] = 0
    assert abs(copy.conv.W.array).min() > 0


def test_equal_arrays_give_equal_bytes_that_numpy_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = weights.encode(Network(seed=3))
    monkeypatch.setattr("time.localtime", lambda *_: pytest.fail("the bytes depend on the clock"))
    assert weights.encode(Network(seed=3)) == first
    with np.load(io.BytesIO(first), allow_pickle=False) as archive:
        assert set(archive.files) == NAMES
    entries = zipfile.ZipFile(io.BytesIO(first)).infolist()
    assert {(e.date_time, e.create_system) for e in entries} == {((1980, 1, 1, 0, 0, 0), 3)}


def test_a_failed_save_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npz"
    weights.save(path, Network(seed=1))
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        weights.save(path, Network(seed=2))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


MISFITS = {
    "missing": ({"conv__W": None}, r"lacks 'conv/W', expected float32\[4, 3, 3, 3\]"),
    "missing persistent": ({"norm__avg_var": None}, r"lacks 'norm/avg_var', expected float32\[4\]"),
    "unexpected": (
        {"head__W": np.zeros(2)},
        r"holds 'head/W', which this network lacks; it has conv",
    ),
    "shape": (
        {"conv__b": np.zeros(5, np.float32)},
        r"'conv/b' is float32\[5\], expected float32\[4\]",
    ),
    "dtype": ({"conv__b": np.zeros(4)}, r"'conv/b' is float64\[4\], expected float32\[4\]"),
}


@pytest.mark.parametrize(("change", "message"), MISFITS.values(), ids=MISFITS)
def test_misfits_are_named_and_change_nothing(
    change: dict[str, np.ndarray | None], message: str, tmp_path: Path
) -> None:
    network = Network(seed=1)
    before = weights.digest(network)
    np.savez(tmp_path / "a.npz", **changed(Network(seed=2), **change))
    with pytest.raises(DataError, match=rf"^weights file '.*a\.npz'.*{message}"):
        weights.load(tmp_path / "a.npz", network)
    assert weights.digest(network) == before


def test_arrays_that_come_from_no_file_are_named_so() -> None:
    with pytest.raises(DataError, match=r"^set of weights lacks '"):
        weights.assign(Network(), {})


def pickled(path: Path) -> None:
    np.savez(path, a=np.array([{}], dtype=object))


def truncated(path: Path) -> None:
    weights.save(path, Network())
    path.write_bytes(path.read_bytes()[:-200])


def damaged(path: Path) -> None:
    weights.save(path, Network())
    content = bytearray(path.read_bytes())
    content[300:340] = bytes(40)
    path.write_bytes(content)


def lone(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))


UNREADABLE = {
    "missing": (Path, "does not exist"),
    "folder": (lambda path: path.mkdir(), "cannot be read as npz of plain arrays"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as npz of plain arrays"),
    "text": (lambda path: path.write_text("hello"), "cannot be read as npz of plain arrays"),
    "pickle": (pickled, "cannot be read as npz of plain arrays: Object arrays cannot be loaded"),
    "truncated": (truncated, "cannot be read as npz of plain arrays"),
    "damaged": (damaged, "cannot be read as npz of plain arrays"),
    "npy": (lone, "cannot be read as npz of plain arrays: it is a single npy array"),
}


@pytest.mark.parametrize(("make", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_files_are_named(make: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    make(path)  # type: ignore[operator]
    with pytest.raises(DataError, match=rf"^weights file '.*a\.npz' {message}"):
        weights.read(path)


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int32]),
        hnp.array_shapes(min_dims=0, max_dims=4),
    ),
    st.integers(0, 2**16),
)
def test_any_array_survives(array: np.ndarray, at: int) -> None:
    link = chainer.Chain()
    link.add_persistent("value", array)
    with np.load(io.BytesIO(weights.encode(link)), allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["value"], array)
        assert archive["value"].dtype == array.dtype
    before = weights.digest(link)
    if array.size:
        array.flat[at % array.size] = array.flat[at % array.size] == 0
        assert weights.digest(link) != before


def test_the_digest_knows_names_dtypes_and_shapes() -> None:
    def of(name: str, array: np.ndarray) -> str:
        link = chainer.Chain()
        link.add_persistent(name, array)
        return weights.digest(link)

    zeros = np.zeros(4, np.float32)
    same = [("a", zeros), ("b", zeros), ("a", zeros.reshape(2, 2)), ("a", zeros.view(np.int32))]
    assert len({of(name, array) for name, array in same}) == 4
