"""Ways to start a job of one or several ranks: in this process, alone, or by `mpiexec`."""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from study.beats import FOLDER
from study.errors import UsageError
from study.processes import CORES, LOG_BYTES, MARK, Processes
from study.reaper import REAPED

__all__ = [
    "CONNECT_SECONDS", "MODULE", "Alone", "InProcess", "Launcher", "Mpiexec", "Place", "Running", "find_mpiexec", "share",
]  # fmt: skip

MODULE = "study.job"
# How long a machine may take to answer.
CONNECT_SECONDS = 15
_SSH_OPTIONS = "HYDRA_LAUNCHER_EXTRA_ARGS"
# Where one of these is set, Hydra may use another program than `ssh`.
_NOT_SSH = (
    "HYDRA_LAUNCHER", "HYDRA_BOOTSTRAP", "HYDRA_LAUNCHER_EXEC", "HYDRA_BOOTSTRAP_EXEC",
    "SLURM_JOB_ID", "LSB_JOBID", "PE_HOSTFILE", "LOADL_HOSTFILE",
)  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where a job runs.

    Attributes:
        hosts: machines for its ranks; none means this one.
        cores: processors of this machine that it may use; none means all.
        devices: GPUs of this machine that it may use, as CUDA numbers them; none means all.
    """

    hosts: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()


class Running(Protocol):
    """A job that was started."""

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs; nothing of an ended job stays behind."""

    def waiting(self) -> bool:
        """Tell whether it still waits for its turn, as in the queue of a cluster."""

    def signal(self, number: int) -> None:
        """Send a signal to its ranks."""

    def kill(self) -> None:
        """End all its processes at once, whatever state they are in."""

    def logs(self) -> str:
        """Return the end of what it printed."""


class Launcher(Protocol):
    """A way to start jobs."""

    def start(
        self,
        arguments: Sequence[str],
        ranks: int,
        place: Place,
        environment: Mapping[str, str],
        folder: Path,
    ) -> Running:
        """Start `python -m study.job ARGUMENTS` on some ranks.

        Args:
            arguments: of `study.job`.
            ranks: how many; >= 1.
            place: where.
            environment: variables on top of this process's own.
            folder: an empty folder of the job, for its beats and its log.

        Raises:
            UsageError: this launcher cannot start so many ranks, or cannot start at all.
        """  # fmt: skip


class InProcess:
    """The twin of all launchers: one rank, inside this process, over before `start` returns."""

    def start(
        self, arguments: Sequence[str], ranks: int, place: Place, environment: Mapping[str, str], folder: Path
    ) -> Running:  # fmt: skip
        """Run the job to its end."""
        from study.job import job
        from study.launch import run

        _check_alone(ranks)
        log = io.StringIO()
        with (
            _environment({**environment, FOLDER: str(folder)}),
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            code = run(list(arguments), job)
        return _Over(code, log.getvalue())


@dataclass(frozen=True)
class _Over:
    code: int
    log: str

    def poll(self) -> int | None:
        return self.code

    def waiting(self) -> bool:
        return False

    def signal(self, number: int) -> None:
        """Nobody is left to hear it."""

    def kill(self) -> None:
        """Nothing is left."""

    def logs(self) -> str:
        return self.log[-LOG_BYTES:]


class Alone:
    """One rank, in a process of its own, without MPI."""

    def start(
        self, arguments: Sequence[str], ranks: int, place: Place, environment: Mapping[str, str], folder: Path
    ) -> Running:  # fmt: skip
        """Start the process."""
        _check_alone(ranks)
        return _start([], arguments, ranks, place, environment, folder)


class Mpiexec:
    """Ranks started by the `mpiexec` of MPICH, Open MPI, or whatever the site has.

    Args:
        program: the program; by default the one of this environment.

    Raises:
        UsageError: there is no such program.
    """

    def __init__(self, program: str | None = None) -> None:
        self._program = program or find_mpiexec()
        self._kind = _kind(self._program)

    def start(
        self, arguments: Sequence[str], ranks: int, place: Place, environment: Mapping[str, str], folder: Path
    ) -> Running:  # fmt: skip
        """Start the ranks."""
        means = _open_mpi_means() if self._kind == "openmpi" else {}
        elsewhere = {REAPED: "1", **_ssh_means(self._kind)} if place.hosts else {}
        told = {**environment, **means, **elsewhere}
        command = [self._program, "-n", str(ranks), *_flags(self._kind, place.hosts, told)]
        return _start(command, arguments, ranks, place, told, folder)


def _start(
    launcher: Sequence[str], arguments: Sequence[str], ranks: int, place: Place,
    environment: Mapping[str, str], folder: Path,
) -> Processes:  # fmt: skip
    own = {"CUDA_VISIBLE_DEVICES": ",".join(place.devices)} if place.devices else {}
    if place.cores:
        own[CORES] = ",".join(map(str, place.cores))
    command = [*launcher, sys.executable, "-m", MODULE, *arguments]
    return Processes(command, ranks, place.cores, {**own, **environment}, folder)


def _open_mpi_means() -> dict[str, str]:
    """Tell Open MPI that more ranks than cores are meant, and root too; cores are our business."""
    meant = {
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "PRTE_MCA_hwloc_default_binding_policy": "none",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    return {name: os.environ.get(name, value) for name, value in meant.items()}


def _ssh_means(kind: str) -> dict[str, str]:
    """Have `ssh` fail, and say why, where it would ask somebody or wait for a machine that is silent."""
    if kind == "openmpi" or any(name in os.environ for name in _NOT_SSH):
        return {}
    return {
        _SSH_OPTIONS: os.environ.get(
            _SSH_OPTIONS, f"-o BatchMode=yes -o ConnectTimeout={CONNECT_SECONDS}"
        )
    }


def _flags(kind: str, hosts: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    if not hosts:
        return []
    if kind == "openmpi":
        # It hands nothing but its own variables to other machines.
        names = (*environment, MARK, FOLDER, "PYTHONPATH")
        return ["--host", ",".join(hosts), *(word for name in names for word in ("-x", name))]
    return ["-hosts", ",".join(hosts)]


@lru_cache
def _kind(program: str) -> Literal["openmpi", "hydra"]:
    try:
        done = subprocess.run(  # noqa: S603  the user's own mpiexec
            [program, "--version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"mpiexec {program!r} cannot be run: {error}") from None
    # Intel MPI and MPICH are both started by Hydra.
    return "openmpi" if re.search(r"open\s?mpi|openrte|prrte", done.stdout, re.I) else "hydra"


def find_mpiexec() -> str:
    """Return the launcher that belongs to this environment rather than one that may be of another MPI.

    Raises:
        UsageError: there is none.
    """
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.is_file() else shutil.which("mpiexec")
    if found is None:
        raise UsageError("mpiexec is not installed: pip install 'jigsaw[mpich]', or use --ranks 1")
    return found


def _check_alone(ranks: int) -> None:
    if ranks != 1:
        raise UsageError(f"ranks is {ranks}; this launcher allows 1")


@contextlib.contextmanager
def _environment(extra: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(extra)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def share(things: Sequence[T], parts: int, index: int) -> tuple[T, ...]:
    """Return one of equal shares: neighbours, or one that others have too where there are too few.

    Args:
        things: what is shared out; none stays none.
        parts: among how many; >= 1.
        index: which share; 0 <= index < parts.
    """
    if not things:
        return ()
    each = len(things) // parts
    if not each:
        return (things[index % len(things)],)
    return tuple(things[index * each : (index + 1) * each])
