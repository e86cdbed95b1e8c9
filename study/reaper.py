"""End what a job leaves behind on a machine: a process there waits until a rank is gone, then kills who is left.

The supervisor does so on its own machine; it sees no process of another.
"""

import os
import select
import subprocess
import sys
import time
from contextlib import suppress

from study.processes import LINGER_SECONDS, MARK, all_marked, kill_marked

__all__ = ["REAPED", "reap_after_me"]

# Set for jobs that need it.
REAPED = "JIGSAW_REAPED"
_POLL_SECONDS = 0.05


def reap_after_me() -> None:
    """Have the processes of this job on this machine killed when this one, a rank, has ended and they do not follow."""
    if not hasattr(os, "pidfd_open"):  # Linux
        return
    unmarked = {name: value for name, value in os.environ.items() if name != MARK}
    # In a session of its own: MPI's launchers end those of their ranks. None of its output keeps them waiting.
    subprocess.Popen(  # noqa: S603  our own command
        [sys.executable, "-m", "study.reaper", os.environ[MARK], str(os.getpid())], env=unmarked,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def _reap(mark: str, pid: int) -> None:
    with suppress(ProcessLookupError):
        select.select([os.pidfd_open(pid)], [], [])
    deadline = time.monotonic() + LINGER_SECONDS
    while all_marked(mark) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    kill_marked(mark)


if __name__ == "__main__":
    _reap(sys.argv[1], int(sys.argv[2]))
