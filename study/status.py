"""`jigsaw status`: studies in a few numbers, once or while they run."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from study.options import FiniteRange, form_option, storage_option
from study.tables import Format

__all__ = ["line", "status"]

_STATES = ("complete", "pruned", "fail", "running", "waiting")


@click.command()
@click.argument("study", required=False)
@storage_option
@form_option
@click.option(
    "--watch",
    type=FiniteRange(0.1),
    is_flag=False,
    flag_value=2.0,
    metavar="[SECONDS]",
    help="Show STUDY again and again, every 2 seconds unless told otherwise, until Ctrl-C.",
)
@click.option(
    "--n-trials",
    type=click.IntRange(1),
    help="With --watch: say when the study will have so many complete and pruned trials.",
)
def status(
    study: str | None, storage: str, form: Format, watch: float | None, n_trials: int | None
) -> None:
    """Show trials by state, best value and core-hours, of STUDY or of every study.

    Watched, it shows workers, trials per hour, the best so far and the time left; with `--format json` one
    object a line. Core-hours are processor time, of trials that run their time so far on each rank.
    """
    if watch is not None:
        _watch(study, storage, form, watch, n_trials)
    elif n_trials is not None:
        raise click.UsageError("--n-trials belongs to --watch")
    else:
        _once(study, storage, form)


def _once(study: str | None, storage: str, form: Format) -> None:
    import pandas as pd

    from study.search.studies import load_study, study_names
    from study.search.summary import summary
    from study.tables import show

    names = [study] if study else study_names(storage)
    show(pd.DataFrame([summary(load_study(storage, name)) for name in names]), form, "studies")


def _watch(
    study: str | None, storage: str, form: Format, seconds: float, wanted: int | None
) -> None:
    if study is None or form == "csv":
        raise click.UsageError("--watch shows one STUDY, as a table or as json")
    with suppress(KeyboardInterrupt):
        ticks = _ticks(study, storage, seconds, wanted)
        if form == "table" and sys.stdout.isatty():
            _show_live(ticks)
        else:
            for facts in ticks:
                print(json.dumps(facts) if form == "json" else line(facts), flush=True)


def _ticks(
    study: str, storage: str, seconds: float, wanted: int | None
) -> Iterator[Mapping[str, Any]]:
    from study.search.pace import pace
    from study.search.studies import load_study

    loaded = load_study(storage, study)
    while True:
        yield pace(loaded, wanted)
        time.sleep(seconds)


def _show_live(ticks: Iterator[Mapping[str, Any]]) -> None:
    with Live(console=Console(), auto_refresh=False) as live:
        for facts in ticks:
            live.update(Group(Text(line(facts)), _workers(facts["workers"])), refresh=True)


def line(facts: Mapping[str, Any]) -> str:
    """Return how a study goes as one line.

    Args:
        facts: what `study.search.pace.pace` returns.
    """
    counts = ", ".join(f"{facts[state]} {state}" for state in _STATES)
    best = (
        "none yet"
        if facts["best"] is None
        else f"{facts['best']:.4g} (trial {facts['best_trial']})"
    )
    parts = [
        f"{facts['time'][11:]} {facts['study']}: {counts}", f"best {best}",
        f"{facts['trials_per_hour']:g} trials/h", *_left(facts),
        f"{facts['core_hours']:.3g} core-hours",
        f"{len(facts['workers'])} at work on {facts['hosts']} hosts",
    ]  # fmt: skip
    return "; ".join(parts)


def _left(facts: Mapping[str, Any]) -> list[str]:
    if facts["remaining"] is None:
        return []
    known = facts["eta_seconds"]
    when = "nobody knows when" if known is None else f"done in {timedelta(seconds=known)}"
    return [f"{facts['remaining']} to go, {when}"]


def _workers(workers: list[Mapping[str, Any]]) -> Table:
    columns = ("host", "pid", "ranks", "trial", "seconds", "step", "value")
    table = Table(*columns)
    for worker in workers:
        table.add_row(*("-" if worker[c] is None else str(worker[c]) for c in columns))
    return table
