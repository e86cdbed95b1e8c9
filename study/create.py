"""`jigsaw create`: a new study, or one that begins with the trials of another."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import click

from study.conditions import Conditions
from study.errors import UsageError
from study.objective import load_objective
from study.options import (
    read_pair,
    read_settings,
    storage_option,
    study_argument,
    study_options,
)

__all__ = ["create"]


@click.command()
@study_argument
@storage_option
@study_options
@click.option(
    "--fix",
    "fixed",
    multiple=True,
    metavar="NAME=VALUE",
    help="Narrow a parameter to one value; repeatable.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A condition of the objective, such as data=digits; repeatable. See `jigsaw space --settings`.",
)
@click.option(
    "--artifacts",
    type=click.Path(file_okay=False),
    help="Folder for what trials leave.  [default: beside the SQLite file]",
)
@click.option(
    "--from",
    "source",
    metavar="OLD[@URL]",
    help="Take OLD's conditions and import its finished trials; may be repeated after an interruption.",
)
@click.option("--exist-ok", is_flag=True, help="Do nothing when the study is there already.")
def create(
    study: str,
    storage: str,
    fixed: tuple[str, ...],
    settings: tuple[str, ...],
    source: str | None,
    exist_ok: bool,
    **given: Any,
) -> None:
    """Create STUDY: an objective, its conditions, and its default spec queued as trial 0.

    \b
    jigsaw create big --storage postgresql://cluster/jigsaw --from mine@sqlite:///runs/study.db

    With --from it begins with what OLD has found instead: trials, curves, error rates and files.
    """
    from study.search.studies import create_study, study_names

    if exist_ok and _exists(storage, study, study_names):
        click.echo(f"{study} is there already; continue it with: jigsaw worker {study}", err=True)
        return
    pairs = dict(read_pair(text) for text in fixed)
    if source is not None:
        wanted = {"fixed": pairs or None, "settings": read_settings(settings) or None, **given}
        _import(study, storage, source, wanted)
        return
    conditions = Conditions(
        **{k: v for k, v in given.items() if v is not None},
        fixed=pairs,
        settings=read_settings(settings),
    )
    objective = load_objective(conditions.objective, conditions.settings)
    create_study(storage, study, conditions, objective)
    click.echo(study)
    click.echo(f"created; now: jigsaw worker {study} --n-trials 20", err=True)


def _import(study: str, storage: str, source: str, wanted: Mapping[str, Any]) -> None:
    from study.search.studies import load_study
    from study.search.transfer import begin_import, import_trials

    # Names and URLs may both hold an @; only a URL has a scheme.
    found = re.fullmatch(r"(.+?)@([A-Za-z][\w+]*:.*)", source)
    name, url = found.groups() if found else (source, storage)
    old = load_study(url, name)
    new = begin_import(old, storage, study, wanted)
    done = import_trials(old, new)
    click.echo(study)
    said = f"imported {done.trials} trials from {name}"
    said += f"; {done.known} were there already" if done.known else ""
    click.echo(f"{said}; now: jigsaw worker {study}", err=True)
    if done.waiting:
        click.echo(
            f"{done.waiting} trials of {name} wait to go on from where they were cut short: go on with "
            f"jigsaw worker {name}, and import once more",
            err=True,
        )
    if done.absent:
        click.echo(
            f"{done.absent} files that these trials left are not on this machine: copy them to "
            f"{new.user_attrs['artifacts']}",
            err=True,
        )


def _exists(storage: str, study: str, names: Callable[[str], list[str]]) -> bool:
    try:
        return study in names(storage)
    except UsageError:  # no database yet
        return False
