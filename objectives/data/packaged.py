"""Files that come inside an installed package, found without importing or downloading anything."""

from importlib.util import find_spec
from pathlib import Path

from study.errors import DataError

__all__ = ["packaged"]


def packaged(package: str, place: str) -> Path:
    """The path of a file inside an installed package.

    The package is not imported: importing scikit-learn takes a second, and scikit-image's own
    readers may try the network.

    Args:
        package: top-level import name, such as "skimage".
        place: path inside the package, such as "data/retina.jpg".

    Raises:
        DataError: the package is not installed or has no such file.
    """
    spec = find_spec(package)
    for root in (spec.submodule_search_locations or []) if spec else []:
        path = Path(root, place)
        if path.is_file():
            return path
    raise DataError(f"{package}/{place} is missing: expected it inside the installed {package}")
