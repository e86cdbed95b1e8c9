"""One trial of a study, by its number: commands to it."""

import pandas as pd
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from study.errors import UsageError
from study.mailbox import post_command, read_commands
from study.search.incremental import storage_of
from study.steering import Command

__all__ = ["commands_of", "send", "trial_of"]


def trial_of(study: Study, number: int) -> FrozenTrial:
    """Return a trial by its number, whatever its state.

    Raises:
        UsageError: there is no such trial.
    """
    storage = storage_of(study)
    try:
        return storage.get_trial(
            storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
        )
    except KeyError:
        count = storage.get_n_trials(study._study_id)
        allowed = f"allowed: 0 to {count - 1}" if count else "it has none yet"
        raise UsageError(f"study {study.study_name!r} has no trial {number}; {allowed}") from None


def send(study: Study, number: int, command: Command) -> int:
    """Queue a command for a running trial, and return the command's number.

    Raises:
        UsageError: the trial does not run, or nobody who runs it would listen.
    """
    trial = trial_of(study, number)
    if trial.state != TrialState.RUNNING:
        raise UsageError(
            f"trial {number} of {study.study_name!r} is {trial.state.name.lower()}; commands reach running trials"
        )
    if "uid" not in trial.user_attrs:
        raise UsageError(
            f"trial {number} of {study.study_name!r} is run by plain Optuna, which hears no commands"
        )
    return post_command(storage_of(study).engine, trial.user_attrs["uid"], command)


def commands_of(study: Study, number: int) -> pd.DataFrame:
    """Return the commands a trial was given, as `study.mailbox.read_commands` does, without `uid`.

    Raises:
        UsageError: there is no such trial.
    """
    uid = trial_of(study, number).user_attrs.get("uid")
    found = read_commands(storage_of(study).engine, [uid] if uid else [])
    return found.drop(columns="uid")
