"""Start a command as one rank of an MPI job, so that no rank is left waiting for one that is gone."""

import sys
import traceback

import click

from study.commands import run
from study.world import launched_by_mpi, mpi_world

__all__ = ["launch"]


def launch(arguments: list[str], command: click.Command) -> None:
    """Run a command and exit; an unknown fault ends the whole MPI job.

    MPI starts before anything that can fail: a rank that dies before it would leave the others waiting.
    """
    if not launched_by_mpi():
        sys.exit(run(arguments, command))
    world = mpi_world()
    try:
        code = run(arguments, command, quiet=world.rank != 0)
    except BaseException:
        traceback.print_exc()
        world.abort(f"rank {world.rank} cannot go on")
    sys.exit(code)
