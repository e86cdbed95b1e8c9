"""Look for what does not fit together in a database, and mend it when asked.

Nothing is written by looking. What is looked at in two places is read first where it is written last, so
that workers may go on meanwhile.
"""

import json
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.artifacts._upload import ARTIFACTS_ATTR_PREFIX
from optuna.storages._rdb.models import (
    StudySystemAttributeModel,
    TrialModel,
    TrialSystemAttributeModel,
    TrialUserAttributeModel,
)
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Engine, Table, delete, func, inspect, select, update

from study.conditions import Conditions
from study.curves import CURVES
from study.errors import UsageError
from study.evaluations import EVALUATIONS
from study.mailbox import COMMANDS
from study.search.incremental import storage_of
from study.search.leftovers import Leftover, leftovers
from study.search.liveness import fail_trial, heartbeat_ages, stale_trials
from study.search.storage import open_storage
from study.search.studies import artifact_folder, conditions_of, load_studies
from study.snapshots import discard

__all__ = ["Finding", "examine"]

# A heartbeat comes every minute or so; without one a trial may be silent between two reports.
_BEATS = timedelta(minutes=10)
_SILENCE = timedelta(hours=24)
_BATCH = 500
# What Optuna calls artifacts, and what an interrupted import leaves of one.
_ARTIFACT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(\.part)?")


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Attributes:
        what: one sentence, without its full stop.
        remedy: what a repair does, or what the user has to do.
        repair: does it; None: only the user can.
    """

    what: str
    remedy: str
    repair: Callable[[], None] | None = None


def examine(url: str, now: datetime | None = None) -> Iterator[Finding]:
    """Yield what is wrong in a database.

    Args:
        url: the database.
        now: this machine's time; None: read the clock.
    """
    studies = load_studies(url)
    for study in studies:
        yield from _conditions(study)
        yield from _silent(study, now or datetime.now())
    # Also when all studies were deleted.
    engine = (storage_of(studies[0]) if studies else open_storage(url)).engine
    yield from _snapshots(engine, [artifact_folder(url), *_folders(studies)])
    yield from _orphans(engine, {study.study_name for study in studies})
    yield from _unanswered(engine)
    yield from _artifacts(engine, studies)


def _conditions(study: Study) -> Iterator[Finding]:
    name = study.study_name
    try:
        remembered = conditions_of(study) is not None
    except UsageError as error:
        yield Finding(str(error), "create another study, with --from this one")
        return
    trials = study.get_trials(deepcopy=False)
    ours = any("uid" in trial.user_attrs for trial in trials)
    begun = Conditions.model_fields.keys() & study.user_attrs.keys()
    if remembered or not (ours or begun):
        return  # one of plain Optuna is as it should be
    what = f"study {name!r} has lost its conditions, or its creation was interrupted"
    if all(trial.state == TrialState.WAITING for trial in trials):
        remove = partial(optuna.delete_study, study_name=name, storage=study._storage)
        yield Finding(f"{what}; no trial of it was run", "deletes it", remove)
    else:
        yield Finding(what, f"say its objective once: jigsaw worker {name} --objective NAME")


def _silent(study: Study, now: datetime) -> Iterator[Finding]:
    """Find trials that nobody seems to run."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    if not running:
        return
    engine, ages = storage_of(study).engine, heartbeat_ages(study)
    known = {trial.number: reason for trial, reason in stale_trials(study)}
    for trial in running:
        reason = known.get(trial.number) or _quiet(engine, trial, ages.get(trial._trial_id), now)
        if reason:
            what = f"trial {trial.number} of study {study.study_name!r} is running, but {reason}"
            yield Finding(what, "fails it", partial(fail_trial, study, trial, reason))


def _quiet(engine: Engine, trial: FrozenTrial, beat: float | None, now: datetime) -> str | None:
    """Return how long a trial has been silent whose process cannot be asked, if that is too long."""
    owner = trial.user_attrs.get("owner") or {}
    if owner.get("host") == socket.gethostname() or (beat is not None and "stall" in owner):
        return None  # whether it lives is known
    if beat is not None:
        age = timedelta(seconds=beat)
        return f"its last heartbeat was {_hours(age)} ago" if age > _BEATS else None
    quiet = now - (trial.datetime_start or now) - timedelta(seconds=_last_point(engine, trial))
    return f"it has said nothing for {_hours(quiet)}" if quiet > _SILENCE else None


def _last_point(engine: Engine, trial: FrozenTrial) -> float:
    """Return the seconds from a trial's start to the last point of its curves."""
    uid = trial.user_attrs.get("uid")
    if uid is None or not _has(engine, CURVES):
        return 0.0
    with engine.connect() as connection:
        query = select(func.max(CURVES.c.seconds)).where(CURVES.c.uid == uid)
        return float(connection.execute(query).scalar() or 0.0)


def _snapshots(engine: Engine, artifacts: Iterable[Path]) -> Iterator[Finding]:
    """Find snapshots that nobody goes on from."""
    for found in leftovers(engine, {folder.with_name("snapshots") for folder in artifacts}):
        if found.certain:
            yield Finding(_told(found), "deletes them", partial(discard, found.place))
        else:
            remedy = f"delete them, unless another database goes on from them: rm -r {found.place}"
            yield Finding(_told(found), remedy)


def _told(found: Leftover) -> str:
    they = f"{found.size:,} bytes of snapshots in {found.place}"
    if found.over:
        return f"{found.whose} is over, and left {they}"
    whose = "no trial of this database" if found.whose is None else f"{found.whose}, which is gone"
    return f"{they} are of {whose}"


def _folders(studies: Iterable[Study]) -> set[Path]:
    """Return where studies keep what their trials leave."""
    named = [study.user_attrs.get("artifacts") for study in studies]
    return {Path(folder) for folder in named if isinstance(folder, str)}


def _orphans(engine: Engine, names: set[str]) -> Iterator[Finding]:
    """Find rows of ours whose trials or studies Optuna deleted."""
    owners: list[tuple[Table, str, str]] = [
        (CURVES, "uid", "curves"), (COMMANDS, "uid", "commands"), (EVALUATIONS, "study", "error rates"),
    ]  # fmt: skip
    for table, column, kind in owners:
        if not _has(engine, table):
            continue
        with engine.connect() as connection:
            held = set(connection.execute(select(table.c[column]).distinct()).scalars())
            gone = sorted(held - (names if table is EVALUATIONS else _uids(connection)))
        if gone:
            what = "studies" if table is EVALUATIONS else "trials"
            remove = partial(_delete, engine, table, column, gone)
            yield Finding(f"{kind} of {len(gone)} {what} that are gone", "deletes them", remove)


def _uids(connection: Connection) -> set[str]:
    model = TrialUserAttributeModel
    rows = connection.execute(select(model.value_json).where(model.key == "uid"))
    return {json.loads(text) for text in rows.scalars()}


def _delete(engine: Engine, table: Table, column: str, gone: list[str]) -> None:
    for start in range(0, len(gone), _BATCH):
        with engine.begin() as connection:
            some = gone[start : start + _BATCH]
            connection.execute(delete(table).where(table.c[column].in_(some)))


def _unanswered(engine: Engine) -> Iterator[Finding]:
    """Find commands that wait for trials that have ended."""
    if not _has(engine, COMMANDS):
        return
    with engine.connect() as connection:
        queued = select(COMMANDS.c.id, COMMANDS.c.uid).where(COMMANDS.c.state == "queued")
        asked = connection.execute(queued).all()
        model = TrialUserAttributeModel
        ended = select(model.value_json).join(TrialModel).where(
            model.key == "uid",
            TrialModel.state.not_in((TrialState.RUNNING, TrialState.WAITING)),
        )  # fmt: skip
        uids = {json.loads(text) for text in connection.execute(ended).scalars()} if asked else ()
        # Whoever goes on with a trial hears what it was told.
        heirs = select(model.value_json).join(TrialModel).where(
            model.key == "lineage", TrialModel.state == TrialState.WAITING
        )  # fmt: skip
        places = [json.loads(text) for text in connection.execute(heirs).scalars()]
    heard = {Path(place).name for lineage in places for place in lineage}
    late = [number for number, uid in asked if uid in uids and uid not in heard]
    if late:
        what = f"{len(late)} commands wait for trials that have ended"
        yield Finding(what, "refuses them", partial(_refuse, engine, late))


def _refuse(engine: Engine, numbers: list[int]) -> None:
    change = update(COMMANDS).where(COMMANDS.c.id.in_(numbers))
    with engine.begin() as connection:
        connection.execute(change.values(state="refused", answer="the trial had ended"))


def _artifacts(engine: Engine, studies: list[Study]) -> Iterator[Finding]:
    """Find files without trials, and trials without files, in folders that are on this machine."""
    folders = [folder for folder in _folders(studies) if folder.is_dir()]
    held = {f: {p.name for p in f.iterdir() if _ARTIFACT.fullmatch(p.name)} for f in folders}
    wanted = _metas(engine)
    for folder, names in held.items():
        if unknown := sorted(names - wanted.keys()):
            what = f"{len(unknown)} files in {folder} belong to no trial of this database"
            aside = folder / "orphans"
            yield Finding(what, f"moves them to {aside}", partial(_set_aside, folder, unknown))
    for study in studies:
        place = study.user_attrs.get("artifacts")
        if not isinstance(place, str) or Path(place) not in held:
            continue
        trials = {t._trial_id for t in study.get_trials(deepcopy=False) if t.state.is_finished()}
        lacking = [
            name for name, trial in wanted.items() if trial in trials and name not in held[Path(place)]
        ]  # fmt: skip
        if lacking:
            what = f"{len(lacking)} files that trials of study {study.study_name!r} left are not in {place}"
            yield Finding(what, "forgets them", partial(_forget, engine, lacking))


def _metas(engine: Engine) -> dict[str, int | None]:
    """Return the artifacts the database knows, with the trial that left each; None: a study's own."""
    trial, study = TrialSystemAttributeModel, StudySystemAttributeModel
    start, cut = ARTIFACTS_ATTR_PREFIX, len(ARTIFACTS_ATTR_PREFIX)
    with engine.connect() as connection:
        ours = connection.execute(select(study.key).where(study.key.startswith(start))).scalars()
        theirs = select(trial.key, trial.trial_id).where(trial.key.startswith(start))
        left: dict[str, Any] = {key[cut:]: i for key, i in connection.execute(theirs)}
        return {**{key[cut:]: None for key in ours}, **left}


def _set_aside(folder: Path, names: list[str]) -> None:
    # Another database may keep its files in the same folder: nothing is deleted.
    (folder / "orphans").mkdir(exist_ok=True)
    for name in names:
        (folder / name).rename(folder / "orphans" / name)


def _forget(engine: Engine, artifacts: list[str]) -> None:
    keys = [ARTIFACTS_ATTR_PREFIX + name for name in artifacts]
    for start in range(0, len(keys), _BATCH):
        some = TrialSystemAttributeModel.key.in_(keys[start : start + _BATCH])
        with engine.begin() as connection:
            connection.execute(delete(TrialSystemAttributeModel).where(some))


def _has(engine: Engine, table: Table) -> bool:
    return inspect(engine).has_table(table.name)


def _hours(age: timedelta) -> str:
    return f"{age / timedelta(hours=1):.1f} hours"
