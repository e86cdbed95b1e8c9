"""The `jigsaw` command: the verbs that need studies only. `study.__main__` adds the others."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import click

from study.conditions import DEFAULT_OBJECTIVE
from study.create import create
from study.keeping import keeping_options
from study.objective import load_objective
from study.options import (
    FiniteRange,
    device_option,
    form_option,
    hang_option,
    objective_of,
    read_pair,
    read_point,
    read_settings,
    spec_option,
    storage_option,
    study_argument,
    study_options,
)
from study.snapshots import Keeping

__all__ = ["jigsaw"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="jigsaw")
def jigsaw() -> None:
    """Tune attack networks: one forward pass from a clean image to an adversarial one.

    A study lives in a database that `optuna` and `optuna-dashboard` read too. Results go to stdout,
    progress to stderr. Exit code 0: done, 1: failed, 2: the command was wrong.

    \b
    jigsaw create my-study
    mpiexec -n 2 python -m study.worker --study my-study --n-trials 20
    jigsaw package my-study best/
    jigsaw attack best/ photos/ adversarial/ 8
    """
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("jigsaw").setLevel(logging.INFO)


jigsaw.add_command(create)


@jigsaw.command()
@click.argument("study", required=False)
@click.option("--study", "name", help="The study, for `python -m study.worker --study NAME`.")
@storage_option
@study_options
@click.option(
    "--n-trials", type=click.IntRange(1), help="Trials this worker runs.  [default: no limit]"
)
@click.option(
    "--total-trials",
    type=click.IntRange(1),
    help="Stop when the study has as many complete and pruned trials.  [default: no limit]",
)
@click.option(
    "--timeout",
    type=FiniteRange(0, min_open=True),
    metavar="SECONDS",
    help="Begin no trial after so long.  [default: no limit]",
)
@click.option(
    "--budget-hours",
    type=FiniteRange(0, min_open=True),
    metavar="HOURS",
    help="Begin no trial once the study has cost so many core-hours.  [default: no limit]",
)
@click.option(
    "--max-failures",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Give up after so many failed trials in a row.",
)
@keeping_options
@hang_option
@device_option
def worker(
    study: str | None,
    name: str | None,
    storage: str,
    n_trials: int | None,
    total_trials: int | None,
    timeout: float | None,
    budget_hours: float | None,
    max_failures: int,
    keeping: Keeping,
    hang_timeout: float,
    **wanted: Any,
) -> int:
    """Run trials of STUDY, on every rank of the MPI job it is started in.

    \b
    jigsaw worker my-study --n-trials 20
    mpiexec -n 4 python -m study.worker --study my-study --total-trials 100
    """
    from study.mpi import mpi_world
    from study.progress import shown
    from study.worker import Plan, run_worker

    chosen = study or name
    if chosen is None:
        raise click.UsageError("which study? jigsaw worker STUDY")
    plan = Plan(
        storage,
        chosen,
        n_trials,
        total_trials,
        timeout,
        max_failures,
        wanted,
        budget_hours,
        keeping,
    )
    with shown() as progress:
        tally = run_worker(mpi_world(hang_timeout), plan, progress)
    return 1 if tally.failures_in_a_row >= max_failures else 0


@jigsaw.command()
@study_argument
@storage_option
@form_option
@click.option(
    "--top", type=click.IntRange(1), default=10, show_default=True, help="How many trials to show."
)
def best(study: str, storage: str, form: Any, top: int) -> None:
    """Show the best complete trials of STUDY, best first."""
    from study.search.studies import load_study
    from study.search.summary import best_trials
    from study.tables import show

    show(best_trials(load_study(storage, study), top), form, f"best of {study}")


@jigsaw.command()
@study_argument
@storage_option
@click.option("--curves", is_flag=True, help="The learning curves instead of the trials.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "json", "table"]),
    default="csv",
    show_default=True,
    help="How results are printed.",
)
def export(study: str, storage: str, curves: bool, form: Any) -> None:
    """Print every trial of STUDY, or every point of its curves, for another program."""
    from study.search.frames import curves_frame, trials_frame
    from study.search.studies import load_study
    from study.tables import show

    loaded = load_study(storage, study)
    show(curves_frame(loaded) if curves else trials_frame(loaded), form)


@jigsaw.command()
@study_argument
@storage_option
@click.argument("values", nargs=-1, metavar="[NAME=VALUE]...")
@spec_option('A JSON file of parameters: {"loss.name": "margin"}.')
def enqueue(study: str, storage: str, values: tuple[str, ...], spec: Path | None) -> None:
    """Queue a point of STUDY's search space; what is left out takes the objective's default."""
    from study.search.studies import enqueue as queue
    from study.search.studies import load_study

    loaded = load_study(storage, study)
    point = read_point(spec) | dict(read_pair(text) for text in values)
    queue(loaded, objective_of(loaded), point)
    click.echo(f"queued in {study}", err=True)


@jigsaw.command()
@click.argument("study", required=False)
@storage_option
@form_option
@click.option(
    "--objective",
    metavar="NAME",
    default=DEFAULT_OBJECTIVE,
    show_default=True,
    help="Whose space, when no STUDY is named.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A condition of that objective; repeatable.",
)
@click.option(
    "--settings", "only_settings", is_flag=True, help="Print the objective's conditions instead."
)
def space(
    study: str | None,
    storage: str,
    form: Any,
    objective: str,
    settings: tuple[str, ...],
    only_settings: bool,
) -> None:
    """Print the search space of STUDY, or of an objective, as a tree."""
    import pandas as pd

    from study.search.studies import load_study
    from study.space import describe, walk
    from study.tables import show, show_space

    found = (
        objective_of(load_study(storage, study))
        if study
        else load_objective(objective, read_settings(settings))
    )
    if only_settings:
        click.echo(json.dumps(found.settings, indent=1))
    elif form == "table":
        show_space(walk(found.suggest))
    else:
        show(pd.DataFrame(describe(found.suggest)), form)


@jigsaw.command()
@form_option
def environment(form: Any) -> None:
    """Print versions, machine, MPI and devices: what a bug report needs."""
    import pandas as pd

    from study.environment import environment_rows
    from study.tables import show

    show(pd.DataFrame(environment_rows()), form, "environment")
