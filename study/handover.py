"""How a supervisor and a job that is ready before its trial meet: two small files in the job's folder."""

import os
import time
from pathlib import Path
from socket import gethostname

from study.beats import FOLDER
from study.errors import TrialInterrupted
from study.provenance import process_alive
from study.world import World

__all__ = ["SUPERVISOR", "await_trial", "hand_over", "is_ready", "supervisor", "tell_ready"]

SUPERVISOR = "JIGSAW_SUPERVISOR"
_POLL_SECONDS = 0.02
_TRIAL = "trial"
_READY = "ready"


def supervisor() -> str:
    """Return this process as a job's supervisor: its machine and its number there."""
    return f"{gethostname()} {os.getpid()}"


def hand_over(folder: Path, number: int) -> None:
    """Give a job that waits, or is about to, its trial."""
    fresh = folder / f"{_TRIAL}.new"
    fresh.write_text(str(number))
    fresh.rename(folder / _TRIAL)


def is_ready(folder: Path) -> bool:
    """Tell whether a job has loaded and prepared all that its trial needs."""
    return (folder / _READY).exists()


def tell_ready(world: World) -> None:
    """Say on rank 0 that this job has loaded and prepared all that its trial needs."""
    if world.rank == 0 and FOLDER in os.environ:
        Path(os.environ[FOLDER], _READY).touch()


def await_trial(world: World) -> int:
    """Wait on every rank for a trial, and return its number; no rank spins, and none is in a collective.

    Raises:
        TrialInterrupted: the job was asked to stop by a signal, or its supervisor is gone.
    """
    given = Path(os.environ[FOLDER], _TRIAL)
    while not given.exists() and not world.interrupted:
        if _alone():
            raise TrialInterrupted("the supervisor is gone")
        time.sleep(_POLL_SECONDS)
    world.check("handover")
    return int(given.read_text())


def _alone() -> bool:
    """Tell whether the supervisor is known to be gone: the kernel kills its jobs, but for those that start."""
    host, pid = os.environ.get(SUPERVISOR, f"{gethostname()} {os.getppid()}").rsplit(maxsplit=1)
    return host == gethostname() and not process_alive(int(pid))
