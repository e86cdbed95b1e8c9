"""Rank 0's side of a worker: ask for trials, record their reports, tell how they ended."""

import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from study.conditions import Conditions, agree
from study.curves import CurveWriter
from study.errors import UsageError
from study.evaluations import forget_evaluations
from study.mailbox import Mailbox
from study.objective import Objective, digest, encode, load_objective
from study.provenance import process_alive, provenance
from study.search.cost import core_hours
from study.search.growth import grow
from study.search.incremental import storage_of
from study.search.studies import conditions_of, finished, load_study, remember
from study.trial import Job, Outcome

__all__ = ["Session", "engine_of", "open_session"]

_TRACEBACK_CHARACTERS = 8000


def open_session(url: str, name: str, wanted: Mapping[str, Any]) -> "Session":
    """Join a study as a worker.

    Args:
        url: the database.
        name: the study.
        wanted: conditions asked for on the command line, None where the study decides; a study of
            plain Optuna takes them once and remembers.

    Raises:
        UsageError: no such study, or it was created with other conditions.
    """
    study = load_study(url, name)
    conditions = conditions_of(study)
    if conditions is None:
        conditions = _adopt(study, url, wanted)
    else:
        agree(conditions, wanted, name)
    objective = load_objective(conditions.objective, conditions.settings)
    grow(study, objective)
    _settle_abandoned(study)
    return Session(study, conditions, objective)


def engine_of(study: Study) -> Any:
    """Return the SQLAlchemy engine of the study's database."""
    return storage_of(study).engine


class Session:
    """A worker's hold on a study.

    Attributes:
        conditions: what the study remembers.
        objective: what its trials evaluate.
        mailbox: live commands to the trial that was asked for last.
    """

    mailbox: Mailbox | None = None

    def __init__(self, study: Study, conditions: Conditions, objective: Objective) -> None:
        self.study = study
        self.storage = storage_of(study)
        self.conditions = conditions
        self.objective = objective
        self._trial: Trial | None = None
        self._curves: CurveWriter | None = None

    def finished(self) -> int:
        """Count the study's complete and pruned trials."""
        return finished(self.study)

    def core_hours(self) -> float:
        """Return what the study's trials cost so far."""
        return sum(map(core_hours, self.study.get_trials(deepcopy=False)))

    def best_value(self) -> float | None:
        """Return the best complete trial's value, or None while there is none."""
        try:
            return self.study.best_value
        except ValueError:
            return None

    def ask(self, extra: Mapping[str, Any]) -> Job:
        """Start a trial: draw its spec and write down who runs it.

        Args:
            extra: further attributes of the trial, such as the ranks' hosts.
        """
        made = provenance() | self.objective.identity
        owner = {"host": socket.gethostname(), "pid": os.getpid()}
        uid = uuid.uuid4().hex
        # A trial begins with its owner, so that whatever happens, the next worker knows whose it was.
        stamp = {"uid": uid, "owner": owner, "provenance": made, **extra}
        with self.storage.stamped(stamp):
            trial = self._trial = self.study.ask()
        with self._failing("asking"):
            self._curves = CurveWriter(self.storage.engine, uid)
            self.mailbox = Mailbox(self.storage.engine, uid)
            spec = encode(self.objective, self.objective.suggest(trial))
            trial.set_user_attr("spec", spec.decode())
        return Job(trial.number, spec, digest(spec))

    def record(self, step: int, value: float | None, logs: Mapping[str, float]) -> bool:
        """Store one report; return whether the trial should be pruned."""
        trial, curves = self._running()
        curves.add(step, logs if value is None else {self.objective.metric: value, **logs})
        if value is None:
            return False
        with self.storage.one_report():
            trial.report(value, step)
            return trial.should_prune()

    def finish(self, outcome: Outcome) -> None:
        """Write down how the trial ended; when that fails, the trial fails for it.

        Raises:
            Exception: whatever the database or the artifact folder raised.
        """
        trial, curves = self._running()
        with self._failing("storing the result"):
            self._write(trial, curves, outcome)
        if outcome.state == "interrupted":
            self._queue_again(trial)

    def _write(self, trial: Trial, curves: CurveWriter, outcome: Outcome) -> None:
        curves.flush()
        attributes: dict[str, Any] = {"cost": dict(outcome.cost)}
        if outcome.state == "complete" and outcome.result is not None:
            attributes |= dict(outcome.result.attributes)
            self._keep(trial, outcome.result.files)
            self._tell(TrialState.COMPLETE, attributes, outcome.result.value)
        elif outcome.state == "pruned":
            self._tell(TrialState.PRUNED, attributes)
        else:
            tracebacks = {str(r): t[-_TRACEBACK_CHARACTERS:] for r, t in outcome.failures.items()}
            failed = {"failure": outcome.reason, "tracebacks": tracebacks}
            self._tell(TrialState.FAIL, attributes | failed)

    @contextmanager
    def _failing(self, doing: str) -> Iterator[None]:
        """Fail the trial for whatever is raised: an error must not leave it running for ever."""
        try:
            yield
        except BaseException as error:
            self.abandon(f"{doing}: {type(error).__name__}: {error}")
            raise

    def abandon(self, reason: str, *, again: bool = False) -> None:
        """Fail the running trial, if there is one: nobody will finish it.

        Args:
            reason: why.
            again: whether to queue its spec again.
        """
        if (trial := self._trial) is None:
            return
        self._tell(TrialState.FAIL, {"failure": reason})
        if again:
            self._queue_again(trial)

    def _queue_again(self, trial: Trial) -> None:
        # Nothing was wrong with it: whoever works on the study next begins with it.
        self.study.enqueue_trial(trial.params, user_attrs={"again": trial.number})

    def _running(self) -> tuple[Trial, CurveWriter]:
        if self._trial is None or self._curves is None:
            raise RuntimeError("no trial is running")
        return self._trial, self._curves

    def _tell(
        self, state: TrialState, attributes: Mapping[str, Any], value: float | None = None
    ) -> None:
        trial = cast(Trial, self._trial)
        # A trial that was commanded is not what its spec alone would give.
        given = {"commands": self.mailbox.history} if self.mailbox and self.mailbox.history else {}
        self.storage.set_trial_user_attrs(trial._trial_id, {**attributes, **given})
        self.study.tell(trial, value, state)
        self._trial = self._curves = None
        if self.mailbox:
            self.mailbox.close()

    def _keep(self, trial: Trial, files: Mapping[str, bytes]) -> None:
        if not files or self.conditions.artifacts is None:
            return
        Path(self.conditions.artifacts).mkdir(parents=True, exist_ok=True)
        store = FileSystemArtifactStore(self.conditions.artifacts)
        with TemporaryDirectory() as folder:
            for name, content in files.items():
                path = Path(folder, name)
                path.write_bytes(content)
                upload_artifact(study_or_trial=trial, file_path=str(path), artifact_store=store)


def _adopt(study: Study, url: str, wanted: Mapping[str, Any]) -> Conditions:
    if wanted.get("objective") is None:
        raise UsageError(
            f"study {study.study_name!r} was made by plain Optuna and names no objective; say it once: "
            "--objective package.module:Name or path/to/file.py:Name"
        )
    conditions = Conditions(**{key: value for key, value in wanted.items() if value is not None})
    objective = load_objective(conditions.objective, conditions.settings)
    forget_evaluations(engine_of(study), study.study_name)
    return remember(study, conditions, objective, url)


def _settle_abandoned(study: Study) -> None:
    """Fail trials left RUNNING by a process of this host that is no more."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = trial.user_attrs.get("owner")
        if owner and owner["host"] == socket.gethostname() and not process_alive(owner["pid"]):
            _fail_abandoned(study, trial)


def _fail_abandoned(study: Study, trial: FrozenTrial) -> None:
    reason = f"its worker (process {trial.user_attrs['owner']['pid']}) died"
    # Another worker that joins at this moment may settle it first.
    with suppress(UpdateFinishedTrialError):
        study._storage.set_trial_user_attr(trial._trial_id, "failure", reason)
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
