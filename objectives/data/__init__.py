"""Data sets by name: three disjoint sets of labelled images; no pickle is ever opened.

`patches` and `digits` come inside dependencies; `cifar10:PATH`, `fashion_mnist:PATH`, `nips17:PATH`
and `folder:PATH` are read from disk; `package.module:Name` or `path/to/file.py:Name` is your own.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from objectives.data import cifar10, digits, fashion_mnist, folder, nips17, patches
from objectives.data.dataset import DataSet, Split
from study.errors import UsageError
from study.resolve import resolve

__all__ = ["DataSet", "Split", "load"]

_EMBEDDED: dict[str, Callable[[], DataSet]] = {"patches": patches.load, "digits": digits.load}
_AT_PATH: dict[str, Callable[[Path], DataSet]] = {
    "cifar10": cifar10.load,
    "fashion_mnist": fashion_mnist.load,
    "folder": folder.load,
    "nips17": nips17.load,
}
_ALLOWED = ", ".join(
    [
        *_EMBEDDED,
        *(f"{name}:PATH" for name in _AT_PATH),
        "package.module:Name or path/to/file.py:Name",
    ]
)


@lru_cache(maxsize=4)
def load(text: str) -> DataSet:
    """The data set that `text` names, read once per process (the last four are kept).

    Args:
        text: "patches", "digits", "cifar10:PATH", "fashion_mnist:PATH", "folder:PATH",
            "nips17:PATH", or "package.module:Name" or "path/to/file.py:Name": an object that is
            called without arguments and returns a `DataSet`.

    Returns:
        The data set, whose `name` is `text`.

    Raises:
        UsageError: `text` names no data set, or the object named returns something else.
        DataError: its files are missing, truncated, wrongly shaped or mislabelled.
    """
    name, _, path = text.partition(":")
    if name in _EMBEDDED:
        if text != name:
            raise UsageError(f"data set {text!r}: {name} takes no path; write {name!r}")
        return _EMBEDDED[name]()
    if name in _AT_PATH:
        if not path:
            raise UsageError(f"data set {text!r} lacks its path: expected {name}:PATH")
        return replace(_AT_PATH[name](Path(path).expanduser()), name=text)
    return replace(_own(text), name=text)


def _own(text: str) -> DataSet:
    try:
        make = resolve(text, "data set")
    except UsageError as error:
        raise UsageError(f"{error}; a data set is {_ALLOWED}") from error
    if not callable(make):
        raise UsageError(f"data set {text!r} is a {type(make).__name__}: expected a function")
    made = make()
    if not isinstance(made, DataSet):
        raise UsageError(f"data set {text!r} returned a {type(made).__name__}: expected a DataSet")
    return made
