"""Attack networks that come with Jigsaw: each folder here is an attack package, found by its name."""

from pathlib import Path

__all__ = ["RELEASED", "package_folder"]

_HERE = Path(__file__).resolve().parent
RELEASED = tuple(sorted(path.parent.name for path in _HERE.glob("*/package.json")))
"""Their names."""


def package_folder(text: str | Path) -> Path:
    """Return the folder of an attack package that is named, or given by its path.

    Args:
        text: one of RELEASED, such as `cifar10`, or a path. An attack package of that name in the working directory
            comes first; any other folder, such as that of a data set, does not.
    """
    folder = Path(text)
    theirs = (folder / "package.json").is_file()
    return _HERE / str(text) if str(text) in RELEASED and not theirs else folder
