"""Start a command as one rank of an MPI job, so that no rank is left waiting for one that is gone."""

import importlib.util
import os
import sys
import traceback
from pathlib import Path

import click
import threadpoolctl

from study.commands import run
from study.world import World, launched_by_mpi, mpi_world

__all__ = ["launch", "shadowed", "share_cores"]

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_OURS = ("study", "models", "objectives", "dashboards")


def launch(arguments: list[str], command: click.Command) -> None:
    """Run a command and exit; an unknown fault ends the whole MPI job.

    MPI starts before anything that can fail: a rank that dies before it would leave the others waiting.
    """
    shadow = shadowed()
    if shadow is not None:
        click.echo(f"jigsaw: {shadow}", err=True)
        sys.exit(2)
    if not launched_by_mpi():
        sys.exit(run(arguments, command))
    world = mpi_world()
    try:
        share_cores(world)
        code = run(arguments, command, world)
    except BaseException:
        traceback.print_exc()
        world.abort(f"rank {world.rank} cannot go on")
    sys.exit(code)


def share_cores(world: World) -> None:
    """Give each rank its share of this host's cores, unless the user has said how many threads.

    Libraries for linear algebra start one thread per core in every rank; two ranks on two cores then fight
    over them and take several times as long.
    """
    if any(name in os.environ for name in _THREADS):
        return
    share = max(1, len(os.sched_getaffinity(0)) // world.local_size)
    # For libraries that are loaded later, and for those that are there already.
    os.environ.update(dict.fromkeys(_THREADS, str(share)))
    threadpoolctl.threadpool_limits(share)


def shadowed() -> str | None:
    """Return a sentence if a module outside this installation would be imported in place of ours.

    Our packages have plain names, and Python puts the working directory first under `python -m`.
    """
    home = Path(__file__).resolve().parent.parent
    for name in _OURS:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            return (
                f"package {name!r} is missing from the installation at {home}; install jigsaw again"
            )
        if Path(spec.origin).resolve().parent.parent != home:
            return (
                f"{spec.origin} hides jigsaw's own {name!r}; rename it, work in another folder, "
                "or set PYTHONSAFEPATH=1"
            )
    return None
