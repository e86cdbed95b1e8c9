"""Chainer's place in a modern Python: every break, one function each.

Chainer 7.8.1 is the last release; Python, NumPy, setuptools, protobuf and onnx have moved on.
Four doors, each cheap to call again:

    apply()               before `import chainer`; `import models` does it
    apply_to_chainermn()  after `import chainermn`, so that nobody needs MPI to build a network
    apply_to_caffe()      before `import chainer.links.caffe`
    export_onnx(...)      patches onnx_chainer on its first use

`docs/compatibility.md` lists what breaks, how it shows, and what was left alone.
"""

import importlib
import types
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import numpy as np
from packaging.version import Version

from models.compatibility.onnx_export import export_onnx
from models.compatibility.repairs import (
    accept_one_element_counts,
    accept_variables_as_shapes,
    add_where_items_were_taken,
    cast_unpacked_gradients,
    fold_padding_gradients,
    refuse_pickles,
    set_daemon_by_attribute,
    silence_experimental_warnings,
    silence_missing_cudnn,
)
from models.compatibility.stand_ins import (
    distutils_stand_in,
    provide_caffe_messages,
    provide_float,
    provide_pkg_resources,
    provide_sctypes,
)
from study.errors import UsageError

__all__ = [
    "TESTED_CHAINER",
    "TESTED_NUMPY",
    "UntestedVersionWarning",
    "apply",
    "apply_to_caffe",
    "apply_to_chainermn",
    "check_versions",
    "export_onnx",
]

TESTED_CHAINER = "7.8.1"
TESTED_NUMPY = ("1.26", "2.6")
"""The first release tested and the first one that was not."""


class UntestedVersionWarning(UserWarning):
    """Chainer meets a NumPy, or we meet a Chainer, that the suite was never run with."""


@cache
def apply() -> None:
    """Make `import chainer` work, import it, and repair what computes wrongly; once per process.

    Raises:
        UsageError: Chainer is not installed.
    """
    provide_sctypes()
    provide_float()
    provide_pkg_resources()
    with distutils_stand_in():
        version = _import_chainer().__version__
    check_versions(np.__version__, version)
    _apply_each(
        version,
        accept_variables_as_shapes,
        add_where_items_were_taken,
        fold_padding_gradients,
        refuse_pickles,
        set_daemon_by_attribute,
        silence_missing_cudnn,
    )


@cache
def apply_to_chainermn() -> None:
    """Repair ChainerMN, which must be importable (MPI included); once per process."""
    apply()
    _apply_each(
        _import_chainer().__version__,
        accept_one_element_counts,
        cast_unpacked_gradients,
        silence_experimental_warnings,
    )


@cache
def apply_to_caffe() -> None:
    """Make `import chainer.links.caffe` work beside protobuf 4 and later; once per process."""
    apply()
    provide_caffe_messages()


def check_versions(numpy_version: str, chainer_version: str) -> None:
    """Warn with `UntestedVersionWarning` about a version outside the tested ones.

    Args:
        numpy_version: as `numpy.__version__` gives it; tested: from the first of `TESTED_NUMPY`
            up to, and without, the second.
        chainer_version: as `chainer.__version__` gives it; tested: `TESTED_CHAINER`, post
            releases included.
    """
    first, beyond = TESTED_NUMPY
    if not Version(first) <= Version(numpy_version) < Version(f"{beyond}.dev0"):
        _warn(f"NumPy {numpy_version} was never tested with Chainer: tested is >={first},<{beyond}")
    if not _is_tested_chainer(chainer_version):
        _warn(f"Chainer {chainer_version} was never tested: tested is {TESTED_CHAINER}")


def _warn(sentence: str) -> None:
    warnings.warn(sentence, UntestedVersionWarning, stacklevel=3)


def _is_tested_chainer(version: str) -> bool:
    return Version(version).base_version == TESTED_CHAINER


def _apply_each(chainer_version: str, *patches: Callable[[], None]) -> None:
    """Apply each patch; in an untested Chainer, pass over those whose place is gone."""
    forgiven = () if _is_tested_chainer(chainer_version) else (AttributeError, ImportError)
    for patch in patches:
        with suppress(*forgiven):
            patch()


def _import_chainer() -> types.ModuleType:
    try:
        with warnings.catch_warnings():
            # It is said at the first import, too: see silence_missing_cudnn.
            warnings.filterwarnings("ignore", "cuDNN is not enabled")
            return importlib.import_module("chainer")
    except ModuleNotFoundError as error:
        if error.name != "chainer":
            raise
        message = (
            f"Chainer is not installed: run `pip install chainer=={TESTED_CHAINER}` with "
            "PIP_CONSTRAINT and PIP_BUILD_CONSTRAINT naming a file that holds the line "
            "`setuptools<81`, which its setup.py needs"
        )
        raise UsageError(message) from error
