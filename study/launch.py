"""Start a command as one rank of an MPI job, so that no rank is left waiting for one that is gone."""

import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import click
import threadpoolctl

from study.errors import JigsawError, TrialFailed, TrialInterrupted, UsageError
from study.launchers import share
from study.mpi import launched_by_mpi, mpi_world
from study.processes import CORES, MARK, end_with_parent
from study.reaper import REAPED, reap_after_me
from study.world import World

__all__ = ["launch", "run", "shadowed", "share_cores"]

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_OURS = ("study", "models", "objectives", "dashboards")
_CODES = {UsageError: 2, TrialInterrupted: 130}


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
        # Not for what this rank may launch itself: the end of that is not the job's.
        if os.environ.pop(REAPED, "") and world.local[0] == 0:
            reap_after_me()
        code = run(arguments, command, world)
    except BaseException:
        traceback.print_exc()
        world.abort(f"rank {world.rank} cannot go on")
    sys.exit(code)


def run(arguments: list[str], command: click.Command, world: World | None = None) -> int:
    """Run the command line and return its exit code; known errors are one sentence on stderr.

    Args:
        arguments: without the program's name.
        command: the group whose verbs are known.
        world: the ranks of an MPI job, which end the command together, and of which rank 0 speaks.
    """
    call = partial(_main, arguments, command)
    try:
        return call() if world is None else _together(world, call)
    except click.exceptions.Abort:
        return 130
    except click.ClickException as error:
        error.show(sys.stderr)
        return error.exit_code
    except JigsawError as error:
        if world is None or world.rank == 0:
            click.echo(f"jigsaw: {error}", err=True)
        return next((code for kind, code in _CODES.items() if isinstance(error, kind)), 1)


def _main(arguments: list[str], command: click.Command) -> int:
    stdout = sys.stdout
    try:
        result = command.main(arguments, prog_name="jigsaw", standalone_mode=False)
    except SystemExit:
        # Click ends so for a reader that has seen enough, `jigsaw export STUDY | head`, and muffles stdout.
        if sys.stdout is stdout:
            raise
        return 0
    return result if isinstance(result, int) else 0


def _together(world: World, call: Callable[[], int]) -> int:
    """Call on every rank; what one of them refuses ends it on all, who may wait for that rank."""
    try:
        code = call()
        world.check("end of the command")
    except TrialInterrupted:
        raise
    except TrialFailed as error:
        raise error.refusal or error from None
    except click.exceptions.Abort:
        world.interrupted = True
        world.check("end of the command")
        raise
    except click.ClickException as error:
        return world.together(partial(_raise, UsageError(error.format_message())))
    except JigsawError as error:
        return world.together(partial(_raise, error))
    return code


def _raise(error: JigsawError) -> NoReturn:
    raise error


def share_cores(world: World) -> None:
    """Give each rank its share of this host's cores, unless the user has said how many threads.

    The ranks of a launched job also stay on their share of the cores and GPUs that the launch gave the job.

    Libraries for linear algebra start one thread per core in every rank; two ranks on two cores then fight
    over them and take several times as long.
    """
    rank, ranks = world.local
    cores = sorted(os.sched_getaffinity(0))
    if not any(name in os.environ for name in _THREADS):
        each = _threads(len(cores), ranks)
        # For libraries that are loaded later, and for those that are there already.
        os.environ.update(dict.fromkeys(_THREADS, str(each)))
        threadpoolctl.threadpool_limits(each)
    if MARK in os.environ:
        end_with_parent()
    if CORES in os.environ and len(cores) >= ranks:
        os.sched_setaffinity(0, share(cores, ranks, rank))
    devices = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
    if MARK in os.environ and devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = share(devices, ranks, rank)[0]


def _threads(cores: int, ranks: int) -> int:
    """Return each rank's share of the cores, or what Slurm gave it: whether it binds ranks to cores, sites decide."""
    given = os.environ.get("SLURM_CPUS_ON_NODE") if "SLURM_STEP_ID" in os.environ else None
    return max(1, (cores if given is None else int(given)) // ranks)


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
