"""Named arrays as one npz file, written whole or not at all; nothing in it is ever pickled.

A file holds one npy entry per array. Equal arrays give equal bytes, so a file can be compared and cached by
its hash.
"""

import io
import lzma
import os
import secrets
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.errors import DataError

__all__ = ["Array", "pack", "unpack", "write_whole"]

Array = NDArray[Any]

# The oldest time a zip entry can carry: any fixed one makes equal arrays equal bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)
# Whatever a damaged archive makes zipfile, its decompressors or NumPy's header parser raise.
_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, KeyError,
    NotImplementedError,
)  # fmt: skip


def pack(arrays: Mapping[str, Array], *, deflated: bool = False) -> bytes:
    """Return an npz, the same for the same arrays.

    Args:
        arrays: by name.
        deflated: whether entries are compressed, by the zlib in use.

    Raises:
        ValueError: an array holds Python objects.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in sorted(arrays.items()):
            entry = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            entry.create_system = 3  # else the platform's own number goes in
            entry.compress_type = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
            with archive.open(entry, "w") as stream:
                np.lib.format.write_array(stream, np.asarray(array, order="C"), allow_pickle=False)
    return buffer.getvalue()


def unpack(path: Path, what: str) -> dict[str, Array]:
    """Return every array of the npz file `path`; nothing in it is ever unpickled.

    Args:
        path: the file.
        what: what it is, as the error names it, such as "weights file".

    Raises:
        DataError: the file is missing, no npz, truncated, damaged, or holds pickled objects.
    """
    try:
        # Opened here: NumPy leaves the file open when the archive is truncated.
        with Path(path).open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it is a single npy array")
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise DataError(f"{what} {str(path)!r} does not exist") from None
    except _UNREADABLE as error:
        raise DataError(
            f"{what} {str(path)!r} cannot be read as npz of plain arrays: {error}"
        ) from None


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that a reader sees whole or not at all, and that a crash of the machine leaves so.

    Args:
        path: the file; its folder must exist. One that is there stays until the new one is on the disk.
        content: of the file.

    Raises:
        OSError: it cannot be written, for a full disk among other reasons; nothing is left behind then.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)  # noqa: PTH105  says that it overwrites, which Path.replace does not
        _sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
