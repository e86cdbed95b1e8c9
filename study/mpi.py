"""How this process was launched: by MPI or alone, and with which other ranks."""

import os
from collections.abc import Callable
from socket import gethostname

from study.beats import beat_writer
from study.errors import UsageError
from study.world import World

__all__ = ["RANKS", "expect_ranks", "launched_by_mpi", "mpi_library", "mpi_world"]

# How many ranks whoever starts a job has asked for.
RANKS = "JIGSAW_RANKS"
# Set by Hydra (MPICH, Intel MPI), Slurm's PMI2 and PMIx, and Open MPI for every rank they start.
_LAUNCHERS = ("PMI_RANK", "PMI_FD", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")


def launched_by_mpi() -> bool:
    """Whether an MPI launcher (`mpiexec`, `srun`) started this process."""
    return any(name in os.environ for name in _LAUNCHERS)


def expect_ranks(world: World) -> None:
    """See that the ranks of a job found each other: those of another MPI than their launcher's are alone each.

    Raises:
        UsageError: there are not as many as were started.
    """
    wanted = os.environ.get(RANKS)
    if wanted is not None and int(wanted) != world.size:
        raise UsageError(
            f"the launcher started {wanted} ranks, and MPI ({mpi_library()}) joins {world.size} of them: they must "
            "be of one kind; with Slurm say which: --slurm '--mpi=pmi2' or pmix (`srun --mpi=list` knows)"
        )


def mpi_library() -> str:
    """Return the MPI library's own name and version, or why there is none."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        return f"none: {error}; install one with pip install 'jigsaw[mpich]'"
    return str(MPI.Get_library_version()).strip("\0 \n").splitlines()[0].strip()


def mpi_world(hang_timeout: float = 600.0) -> World:
    """Return the world of all ranks of this MPI job; one rank without MPI when none launched us.

    Args:
        hang_timeout: seconds a rank waits for the others before it ends the job; > 0.
    """
    if launched_by_mpi():
        from mpi4py import MPI

        world = World(MPI.COMM_WORLD, hang_timeout)
    else:
        world = World()
    world.arriving = _beats(world) or world.arriving
    return world


def _beats(world: World) -> Callable[[str], None] | None:
    try:
        return beat_writer(world.rank)
    except OSError as error:
        if world.comm is None:
            raise
        # The other ranks are there already, and would wait for this one.
        world.abort(
            f"{gethostname()} cannot write into the launch's folder: {error.strerror}: {error.filename!r}; all machines "
            "have to share the folder that a launch is started in"
        )
