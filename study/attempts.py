"""Jobs that are watched: one that makes no progress is killed, and one that ended says why."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from study.beats import Watch, read_beats
from study.exits import explain_exit
from study.handover import SUPERVISOR, hand_over, is_ready, supervisor
from study.launchers import Alone, Launcher, Mpiexec, Place, Running
from study.mpi import RANKS

__all__ = ["Attempt", "Jobs", "launcher_for"]


@dataclass
class Attempt:
    """A job that is watched.

    Attributes:
        running: the job.
        folder: where its ranks write their beats.
        ranks: how many it has.
        watch: sees whether they progress.
        killed: why it was ended, if it was.
    """

    running: Running
    folder: Path
    ranks: int
    watch: Watch
    killed: str = ""

    def over(self) -> bool:
        """Tell whether it ended, or was ended because it made no progress."""
        if self.running.poll() is not None:
            return True
        beats = read_beats(self.folder, self.ranks)
        if self.waiting:
            self.watch.restart(time.monotonic())
        stalled = self.watch.stalled(beats, time.monotonic())
        if stalled is not None:
            self.kill(stalled)
        return stalled is not None

    @property
    def waiting(self) -> bool:
        """Whether it waits for its turn: no rank has begun."""
        began = any(beat is not None for beat in read_beats(self.folder, self.ranks))
        return not began and self.running.waiting()

    @property
    def ready(self) -> bool:
        """Whether it has loaded all that its trial needs."""
        return is_ready(self.folder)

    def hand_over(self, number: int) -> None:
        """Give it a trial: it was started as a spare."""
        hand_over(self.folder, number)

    def kill(self, reason: str) -> None:
        """End it at once."""
        self.killed = reason
        self.running.kill()

    @property
    def reason(self) -> str:
        """Why its trial is not settled."""
        beats = read_beats(self.folder, self.ranks)
        return self.killed or explain_exit(self.running.poll(), self.running.logs(), beats)


@dataclass(frozen=True)
class Jobs:
    """Starts jobs of a study, each with a folder of its own.

    Attributes:
        study: name of the study.
        storage: database URL.
        stall: seconds without progress after which a job is killed; > 0.
        folder: where the jobs have theirs.
        launcher: starts them; None chooses one for each job (see `launcher_for`).
    """

    study: str
    storage: str
    stall: float
    folder: Path
    launcher: Launcher | None = None

    def start(self, ranks: int, place: Place, *number: int) -> Attempt:
        """Start the job of a trial, or one that only prepares."""
        folder = self.folder / "-".join(map(str, number or ("prepare",)))
        folder.mkdir()
        return self._start(list(map(str, number)), ranks, place, folder)

    def spare(self, ranks: int, place: Place) -> Attempt:
        """Start a job that prepares, and waits to be given a trial."""
        return self._start(["--spare"], ranks, place, Path(mkdtemp("", "spare-", self.folder)))

    def _start(self, what: Sequence[str], ranks: int, place: Place, folder: Path) -> Attempt:
        launcher = self.launcher or launcher_for(ranks, place)
        # Ranks that wait give up long after the supervisor has: it knows for whom they wait.
        arguments = [self.study, *what, "--hang-timeout", str(2 * self.stall)]
        # Not among the arguments, which everybody on this machine can read: it may hold a password.
        environment = {
            "OPTUNA_STORAGE": self.storage, SUPERVISOR: supervisor(), RANKS: str(ranks),
        }  # fmt: skip
        running = launcher.start(arguments, ranks, place, environment, folder)
        return Attempt(running, folder, ranks, Watch(self.stall, time.monotonic()))


def launcher_for(ranks: int, place: Place) -> Launcher:
    """Return what starts so many ranks there: one rank of this machine needs no MPI."""
    return Alone() if ranks == 1 and not place.hosts else Mpiexec()
