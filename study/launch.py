"""Start a command as one rank of an MPI job, so that no rank is left waiting for one that is gone."""

import importlib.util
import sys
import traceback
from pathlib import Path

import click

from study.commands import run
from study.world import launched_by_mpi, mpi_world

__all__ = ["launch", "shadowed"]

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
        code = run(arguments, command, quiet=world.rank != 0)
    except BaseException:
        traceback.print_exc()
        world.abort(f"rank {world.rank} cannot go on")
    sys.exit(code)


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
