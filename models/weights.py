"""The arrays of a network: named, saved as plain npz, loaded with checks, and hashed.

A file holds one npy entry per parameter and persistent value (batch statistics, normalisation),
named by its path in the network, such as `layer1/0/conv1/W`. Equal arrays give equal bytes, so a
file can be compared and cached by its hash.
"""

from collections.abc import Mapping
from hashlib import sha256
from itertools import count
from pathlib import Path

import chainer
import numpy as np

from study.arrays import Array, pack, unpack, write_whole
from study.errors import DataError

__all__ = ["arrays", "assign", "assigned", "digest", "encode", "load", "read", "save"]

_assignments = count(1)


def arrays(link: chainer.Link) -> dict[str, Array]:
    """Return the parameters and persistent values of `link`, by path, on the CPU.

    Args:
        link: a network without uninitialised parameters.

    Returns:
        name to array, in the order of names (Chainer's own changes from process to process); the arrays are
        the network's own memory where it lives on the CPU.

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
    return {name: np.asarray(value) for name, value in sorted(serializer.target.items())}


def encode(link: chainer.Link) -> bytes:
    """Return the arrays of `link` as an uncompressed npz, the same for the same arrays."""
    return pack(arrays(link))


def save(path: Path, link: chainer.Link) -> None:
    """Write the arrays of `link` to `path` as a compressed npz, whole or not at all.

    Args:
        path: the file; its folder must exist. A reader sees the old file or the new one, no part.
        link: a network without uninitialised parameters.
    """
    write_whole(path, pack(arrays(link), deflated=True))


def read(path: Path) -> dict[str, Array]:
    """Return every array of the npz file `path`; nothing in it is ever unpickled.

    Raises:
        DataError: the file is missing, no npz, truncated, or holds pickled objects.
    """
    return unpack(path, "weights file")


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
    now = next(_assignments)
    for part in link.links():
        part.assigned = now


def assigned(link: chainer.Link) -> int:
    """Return a number that is another one after each `assign` to `link` or a part of it.

    What was made from the arrays, such as the same network in another form, is stale then.
    """
    return max(getattr(part, "assigned", 0) for part in link.links())


def _form(array: Array) -> str:
    return f"{array.dtype}{list(array.shape)}"


def digest(link: chainer.Link) -> str:
    """Return the sha256, in hex, over names, dtypes, shapes and bytes of `link`'s arrays."""
    total = sha256()
    for name, array in arrays(link).items():
        total.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
