"""`jigsaw launch`: run each trial as an MPI job of its own, supervised."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from study.errors import UsageError
from study.keeping import keeping_options
from study.launchers import Place, share
from study.mpi import launched_by_mpi
from study.options import FiniteRange, storage_option, study_argument
from study.slurm import Slurm, launch_name, restarted
from study.snapshots import Keeping
from study.supervisor import Launch, supervise
from study.trial import Ending

__all__ = ["launch", "places"]


@click.command()
@study_argument
@storage_option
@click.option(
    "--n-trials", type=click.IntRange(1), required=True,
    help="Complete and pruned trials that this launch runs; failed ones do not count.",
)  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Jobs at a time."
)
@click.option(
    "--ranks", type=click.IntRange(1), default=1, show_default=True,
    help="Ranks of each job, unless trials have a parameter `ranks` of their own.",
)  # fmt: skip
@click.option(
    "--hosts", metavar="A,B,..", help="Machines, dealt out to the workers.  [default: this one]"
)
@click.option(
    "--slurm", metavar="OPTIONS",
    help="Start jobs by Slurm's srun, with these options of it, such as '--partition=gpu --time=2:00:00 --gpus-per-task=1'; "
    "'' for none. Inside an allocation a job is a step of it.",
)  # fmt: skip
@click.option(
    "--timeout", type=FiniteRange(0, min_open=True), metavar="SECONDS",
    help="Begin no trial after so long.  [default: no limit]",
)  # fmt: skip
@click.option(
    "--stall", type=FiniteRange(0, min_open=True), metavar="SECONDS", default=600.0, show_default=True,
    help="Kill a job when a rank makes no progress for so long.",
)  # fmt: skip
@click.option(
    "--grace", type=FiniteRange(0), metavar="SECONDS", default=10.0, show_default=True,
    help="Time that jobs have to end on Ctrl-C or SIGTERM.",
)  # fmt: skip
@click.option(
    "--max-failures", type=click.IntRange(1), default=5, show_default=True,
    help="Give up after so many failed trials in a row.",
)  # fmt: skip
@keeping_options
@click.option(
    "--spares/--no-spares", default=True, show_default=True,
    help="Load each worker's next job while one runs: it takes memory, and trials begin sooner.",
)  # fmt: skip
def launch(
    study: str, storage: str, n_trials: int, workers: int, ranks: int, hosts: str | None, slurm: str | None,
    timeout: float | None, stall: float, grace: float, max_failures: int, keeping: Keeping, spares: bool,
) -> int:  # fmt: skip
    """Run trials of STUDY, each as an MPI job of its own, and look after the jobs.

    Whatever happens to a job (a crash, a lack of memory, a rank that hangs) costs its trial and no other, and a
    trial that has left a snapshot goes on from there as another.

    \b
    jigsaw launch my-study --n-trials 20 --workers 2 --ranks 4
    """
    if launched_by_mpi():
        raise UsageError(
            "jigsaw launch starts MPI jobs itself; run it without mpiexec, or use `jigsaw worker`"
        )
    named = tuple(filter(None, (hosts or "").split(",")))
    launcher = _slurm(slurm, named, ranks)
    where = (Place(),) * workers if launcher else places(workers, named)
    # Other machines see the working directory, if anything of this one.
    folder = Path.cwd() if launcher or named else None
    plan = Launch(
        storage, study, n_trials, where, ranks, timeout, stall, grace, max_failures, keeping,
        # On a cluster a job that waits is an allocation that nobody uses.
        spares and launcher is None, folder, launch_name(), restarted(),
    )  # fmt: skip
    last: dict[str, Any] = {}

    def show(event: str, facts: Mapping[str, Any]) -> None:
        last.update(facts)
        click.echo(_line(event, facts), err=True)

    tally = supervise(plan, launcher, show)
    if tally.failures_in_a_row < max_failures:
        return 0
    ending: Ending = last["ending"]
    print(
        f"jigsaw: {tally.failures_in_a_row} trials in a row failed, the last (trial {last['number']}) because: "
        f"{ending.reason}",
        file=sys.stderr,
    )
    return 1


def _slurm(options: str | None, hosts: Sequence[str], ranks: int) -> Slurm | None:
    if options is None:
        return None
    if hosts:
        raise UsageError("--hosts and --slurm exclude each other: Slurm chooses the machines")
    launcher = Slurm(options)
    launcher.check(ranks)
    return launcher


def _line(event: str, facts: Mapping[str, Any]) -> str:
    number = f"trial {facts['number']:>3}"
    if event == "trial":
        return f"{number} on {facts['ranks']} rank{'s' if facts['ranks'] > 1 else ''}"
    ending: Ending = facts["ending"]
    value = "" if ending.value is None else f" {ending.value:.4f}"
    return f"{number} {ending.state}{value}" + (f": {ending.reason}" if ending.reason else "")


def places(workers: int, hosts: Sequence[str] = ()) -> tuple[Place, ...]:
    """Deal out hosts to workers, or this machine's cores and GPUs where no hosts are named.

    Args:
        workers: how many places; >= 1.
        hosts: machines; with fewer than workers, several workers use one.
    """
    if hosts:
        return tuple(Place(share(hosts, workers, w)) for w in range(workers))
    cores, devices = sorted(os.sched_getaffinity(0)), _devices()
    return tuple(
        Place(
            cores=share(cores, workers, w) if len(cores) >= workers else (),
            devices=share(devices, workers, w),
        )
        for w in range(workers)
    )


def _devices() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    return [str(index) for index in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]
