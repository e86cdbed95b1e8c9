"""The arrays of a network: named, saved as plain npz, loaded with checks, and hashed.

A file holds one npy entry per parameter and persistent value (batch statistics, normalisation),
named by its path in the network, such as `layer1/0/conv1/W`. Equal arrays give equal bytes, so a
file can be compared and cached by its hash.
"""

import io
import lzma
import os
import secrets
import zipfile
import zlib
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import chainer
import numpy as np
from numpy.typing import NDArray

from study.errors import DataError

__all__ = ["arrays", "assign", "digest", "encode", "load", "read", "save"]

Array = NDArray[Any]

# The oldest time a zip entry can carry: any fixed one makes equal arrays equal bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)
# Whatever a damaged archive makes zipfile, its decompressors or NumPy's header parser raise.
_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, KeyError,
    NotImplementedError,
)  # fmt: skip


def arrays(link: chainer.Link) -> dict[str, Array]:
    """Return the parameters and persistent values of `link`, by path, on the CPU.

    Args:
        link: a network without uninitialised parameters.

    Returns:
        name to array; the arrays are the network's own memory where it lives on the CPU.

    Raises:
        DataError: a parameter has no shape yet.
    """
    for name, parameter in link.namedparams():
        if not parameter.is_initialized:
            raise DataError(
                f"parameter {name} is not initialised: give its layer the number of input channels"
            )
    serializer = chainer.serializers.DictionarySerializer()
    serializer.save(link)
    return {name: np.asarray(value) for name, value in serializer.target.items()}


def encode(link: chainer.Link) -> bytes:
    """Return the bytes `save` writes: an uncompressed npz, the same for the same arrays."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in sorted(arrays(link).items()):
            entry = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            entry.create_system = 3  # else the platform's own number goes in
            with archive.open(entry, "w") as stream:
                np.lib.format.write_array(stream, np.asarray(array, order="C"), allow_pickle=False)
    return buffer.getvalue()


def save(path: Path, link: chainer.Link) -> None:
    """Write the arrays of `link` to `path` as npz, whole or not at all.

    Args:
        path: the file; its folder must exist. A reader sees the old file or the new one, no part.
        link: a network without uninitialised parameters.
    """
    path = Path(path)
    content = encode(link)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)  # noqa: PTH105  says that it overwrites, which Path.replace does not
    finally:
        part.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Array]:
    """Return every array of the npz file `path`; nothing in it is ever unpickled.

    Raises:
        DataError: the file is missing, no npz, truncated, or holds pickled objects.
    """
    try:
        # Opened here: NumPy leaves the file open when the archive is truncated.
        with Path(path).open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it is a single npy array")
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise DataError(f"weights file {str(path)!r} does not exist") from None
    except _UNREADABLE as error:
        raise DataError(
            f"weights file {str(path)!r} cannot be read as npz of plain arrays: {error}"
        ) from None


def load(path: Path, link: chainer.Link) -> None:
    """Fill `link` with the arrays of the file that `save` wrote.

    Args:
        path: an npz file.
        link: a network with exactly the arrays of the file; unchanged when anything is wrong.

    Raises:
        DataError: the file cannot be read, or an array is missing, unexpected or of another shape
            or dtype.
    """
    assign(link, read(path), f"weights file {str(path)!r}")


def assign(link: chainer.Link, found: Mapping[str, Array], source: str = "set of weights") -> None:
    """Fill `link` with the arrays `found`, after checking all of them.

    Args:
        link: the network; unchanged when anything is wrong.
        found: exactly the names of `arrays(link)`, with the same shapes and dtypes.
        source: what the arrays came from, as the error names it.

    Raises:
        DataError: an array is missing, unexpected or of another shape or dtype.
    """
    expected = arrays(link)
    for name, array in expected.items():
        if name not in found:
            raise DataError(f"{source} lacks {name!r}, expected {_form(array)}")
        if _form(found[name]) != _form(array):
            raise DataError(f"{source}: {name!r} is {_form(found[name])}, expected {_form(array)}")
    unexpected = sorted(set(found) - set(expected))
    if unexpected:
        raise DataError(
            f"{source} holds {unexpected[0]!r}, which this network lacks; "
            f"it has {', '.join(sorted(expected)[:6])}, ..."
        )
    chainer.serializers.NpzDeserializer(found).load(link)


def _form(array: Array) -> str:
    return f"{array.dtype}{list(array.shape)}"


def digest(link: chainer.Link) -> str:
    """Return the sha256, in hex, over names, dtypes, shapes and bytes of `link`'s arrays."""
    total = sha256()
    for name, array in sorted(arrays(link).items()):
        total.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
