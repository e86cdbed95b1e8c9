"""The processes of a job, each of which can be found and ended whatever becomes of those in between.

Every process of a job carries the job's name in its environment, and hands it on to whatever it starts.
"""

import contextlib
import ctypes
import math
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from socket import gethostname

from study.beats import FOLDER, Beat, read_beats

__all__ = [
    "CORES", "LINGER_SECONDS", "LOG_BYTES", "MARK", "Processes", "all_marked", "end_with_parent", "kill_marked",
]  # fmt: skip

MARK = "JIGSAW_JOB"
CORES = "JIGSAW_CORES"
# How much of what a job prints is of interest in the end.
LOG_BYTES = 8000
_ROOT = Path(__file__).resolve().parent.parent
_DYING_SECONDS = 5.0
# How long what a rank has started may outlive it.
LINGER_SECONDS = 2.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class Processes:
    """A job that runs: a launcher, and what it started.

    Args:
        command: starts it.
        ranks: how many it has.
        cores: processors of this machine that it may use; none means all.
        environment: variables on top of this process's own.
        folder: of the job, for its beats and its log.
    """

    # What the kernel sends to the launcher when this process ends.
    death_signal = signal.SIGKILL

    def __init__(
        self,
        command: Sequence[str],
        ranks: int,
        cores: Sequence[int],
        environment: Mapping[str, str],
        folder: Path,
    ) -> None:
        self._mark = uuid.uuid4().hex
        self._ranks = ranks
        self._left_at = math.inf
        self._folder = folder
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  our own command
                command, env=self._environment(environment), stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=lambda: _settle_in(cores, self.death_signal),  # noqa: PLW1509  two system calls
            )  # fmt: skip

    def _environment(self, given: Mapping[str, str]) -> dict[str, str]:
        inherited = os.environ.get("PYTHONPATH")
        ours = {
            MARK: self._mark,
            FOLDER: str(self._folder),
            # Ranks must not import a stray models.py from the working directory.
            "PYTHONSAFEPATH": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), inherited))),
        }
        return {**os.environ, **given, **ours}

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs; nothing of an ended job stays behind."""
        code = self._process.poll()
        if code is None and self._deserted():
            # A launcher waits for whoever still holds a rank's output, such as a child of its.
            self.kill()
            code = self._process.poll()
        elif code is not None:
            kill_marked(self._mark)
        return code

    def _deserted(self) -> bool:
        now = time.monotonic()
        beats = read_beats(self._folder, self._ranks)
        left = len(self._here(beats)) == self._ranks and not any(map(self._lives, beats))
        # Counted from when it was first seen: nobody may have looked for a while, as when a database was away.
        self._left_at = min(self._left_at, now) if left else math.inf
        return now - self._left_at > LINGER_SECONDS

    def _here(self, beats: Sequence[Beat | None]) -> list[Beat]:
        return [beat for beat in beats if beat is not None and beat.host == gethostname()]

    def _lives(self, beat: Beat | None) -> bool:
        return beat is not None and _marked(beat.pid, self._mark)

    def waiting(self) -> bool:
        """Tell whether it waits for its turn: never."""
        return False

    def signal(self, number: int) -> None:
        """Send a signal to the ranks."""
        # Launchers disagree about what they pass on, and to whom: the ranks are told directly.
        here = self._here(read_beats(self._folder, self._ranks))
        pids = [beat.pid for beat in here if self._lives(beat)]
        for pid in pids:
            _send(pid, number)
        if not pids:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End all processes at once, whatever state they are in."""
        self._process.kill()
        kill_marked(self._mark)
        self._process.wait(_DYING_SECONDS)

    def logs(self) -> str:
        """Return the end of what was printed."""
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - LOG_BYTES))
            return log.read().decode(errors="replace")


def _settle_in(cores: Sequence[int], death_signal: int) -> None:
    end_with_parent(death_signal)
    if cores:
        os.sched_setaffinity(0, cores)


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when the one that started it ends, where it can (Linux)."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _marked(pid: int, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # gone, or somebody else's
        return False


def all_marked(mark: str) -> list[int]:
    """Return the processes of a job on this machine."""
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return [pid for pid in pids if _marked(pid, mark)]


def kill_marked(mark: str) -> None:
    """Kill a job's processes on this machine until nobody is left: one may just have started another."""
    deadline = time.monotonic() + _DYING_SECONDS
    while (left := all_marked(mark)) and time.monotonic() < deadline:
        for pid in left:
            _send(pid, signal.SIGKILL)
        time.sleep(0.01)
