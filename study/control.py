"""`jigsaw control`: commands to a trial while it runs, and what became of them."""

from collections.abc import Sequence
from typing import Any, get_args

import click

from study.options import (
    FiniteRange,
    form_option,
    objective_of,
    read_pair,
    storage_option,
    study_argument,
)
from study.steering import Command, Verb, check_values

__all__ = ["control", "give"]


@click.command()
@study_argument
@click.argument("trial", type=click.IntRange(0))
@click.argument("verb", type=click.Choice(get_args(Verb)), required=False, metavar="[VERB]")
@click.argument("values", nargs=-1, metavar="[NAME=VALUE]...")
@storage_option
@form_option
@click.option("--at-iteration", type=click.IntRange(0), metavar="N", help="After N updates.")
@click.option("--at-epoch", type=FiniteRange(0), metavar="N", help="After N passes over the data.")
def control(
    study: str,
    trial: int,
    verb: Verb | None,
    values: tuple[str, ...],
    storage: str,
    form: Any,
    at_iteration: int | None,
    at_epoch: float | None,
) -> None:
    """Command TRIAL of STUDY while it runs, or list what it was told and how it answered.

    \b
    jigsaw control my-study 7                             what was asked, and the answers
    jigsaw control my-study 7 set lr=1e-4                 the rate that the schedule scales
    jigsaw control my-study 7 snapshot --at-epoch 3       keep it as it is; answered with place and size
    jigsaw control my-study 7 stop --at-iteration 500     train no further, and complete
    jigsaw control my-study 7 prune                       end it as the pruner would

    A worker looks for commands once a second; every rank obeys at the same iteration.
    """
    from study.search.studies import load_study
    from study.search.trials import commands_of
    from study.tables import show

    loaded = load_study(storage, study)
    if verb is None:
        _refuse_rest(values, at_iteration, at_epoch)
        show(commands_of(loaded, trial), form, f"commands to trial {trial} of {study}")
        return
    number = give(loaded, trial, verb, values, at_iteration, at_epoch)
    click.echo(f"queued as command {number}; its answer: jigsaw control {study} {trial}", err=True)


def _refuse_rest(values: tuple[str, ...], *moments: object) -> None:
    if values or any(moment is not None for moment in moments):
        verbs = ", ".join(get_args(Verb))
        raise click.UsageError(f"--at-iteration and --at-epoch belong to one of {verbs}")


def give(
    study: Any,
    trial: int,
    verb: Verb,
    values: Sequence[str],
    at_iteration: int | None,
    at_epoch: float | None,
) -> int:
    """Queue a command for a running trial, and return its number.

    Args:
        study: what `study.search.studies.load_study` returned.
        trial: the trial's number.
        verb: what to do.
        values: NAME=VALUE, of a verb that takes them.
        at_iteration: after so many updates, >= 0; None: at once.
        at_epoch: likewise, after so many passes over the data, >= 0.

    Raises:
        click.UsageError: verb, values and moments do not fit together.
        UsageError: the trial does not run or hears no commands, or a value is not allowed.
    """
    from study.search.trials import send

    if (verb == "set") != bool(values):
        others = ", ".join(name for name in get_args(Verb) if name != "set")
        raise click.UsageError(f"set takes NAME=VALUE, such as lr=1e-4; {others} take none")
    if at_iteration is not None and at_epoch is not None:
        raise click.UsageError("--at-iteration and --at-epoch: say one of them")
    given = dict(map(read_pair, values))
    wanted = check_values(objective_of(study).settable, given) if given else {}
    return send(study, trial, Command(0, verb, wanted, at_iteration, at_epoch))
