"""What this installation runs on."""

import os
from typing import Any

from study.mpi import launched_by_mpi, mpi_library
from study.provenance import code_state, machine, registered, versions

__all__ = ["environment_rows"]


def environment_rows() -> list[dict[str, Any]]:
    """Return rows `part, what, value`."""
    threads = {
        name: os.environ.get(name, "unset")
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    }
    parts: dict[str, dict[str, Any]] = {
        "machine": machine(),
        "code": code_state() or {"commit": "not in a git checkout"},
        "mpi": {"library": mpi_library(), "launched by mpiexec": launched_by_mpi()},
        "threads": threads,
        "version": versions(),
        **registered(),
    }
    return [
        {"part": part, "what": what, "value": str(value)}
        for part, facts in parts.items()
        for what, value in facts.items()
    ]
