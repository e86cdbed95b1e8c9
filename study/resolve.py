"""Find an object by `package.module:Name` or `path/to/file.py:Name`, so that users add their own parts."""

import importlib
import importlib.util
import sys
import traceback
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from study.errors import UsageError

__all__ = ["resolve"]


def resolve(text: str, what: str) -> Any:
    """Import the object that `text` names.

    Args:
        text: `package.module:Name` or `path/to/file.py:Name` (relative paths from the working directory).
        what: the word for such a thing in an error, such as "objective" or "data set".

    Raises:
        UsageError: the text has another form, the module cannot be imported, or it has no such name.
    """
    place, colon, name = text.rpartition(":")
    if not colon or not place or not name:
        raise UsageError(f"{what} {text!r}: expected package.module:Name or path/to/file.py:Name")
    module = _from_file(Path(place), what) if place.endswith(".py") else _from_name(place, what)
    try:
        return getattr(module, name)
    except AttributeError:
        public = ", ".join(sorted(n for n in vars(module) if not n.startswith("_"))[:20])
        raise UsageError(
            f"{what} {text!r}: {place} has no {name!r}; it has {public or 'nothing'}"
        ) from None


def _from_name(place: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except (Exception, SystemExit) as error:
        raise UsageError(f"{what} module {place!r} cannot be imported: {_why(error)}") from error


def _from_file(path: Path, what: str) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"{what} file {str(path)!r} does not exist (looked in {Path.cwd()})")
    # One module per file however it is spelled: a class loaded twice is two classes.
    name = "jigsaw_user_" + sha256(str(path.resolve()).encode()).hexdigest()[:12]
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{what} file {str(path)!r} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, (Exception, SystemExit)):
            raise
        raise UsageError(f"{what} file {str(path)!r} cannot be imported: {_why(error)}") from error
    return module


def _why(error: BaseException) -> str:
    """Say what was raised and, where the user's own file raised it, in which line."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if len(frames) > 1 else ""
    return f"{type(error).__name__}: {error}{place}"
