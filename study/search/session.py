"""Rank 0's side of a worker: ask for trials, record their reports, tell how they ended."""

import math
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, cast

from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from study.conditions import Conditions
from study.curves import CurveWriter
from study.errors import UsageError
from study.mailbox import Mailbox
from study.objective import Objective, digest, encode
from study.provenance import provenance
from study.search import liveness
from study.search.artifacts import keep_files
from study.search.cost import core_hours
from study.search.incremental import storage_of
from study.search.lineage import Hold, end_short, forget_snapshots, settled, successor
from study.search.studies import finished
from study.search.transfer import IMPORTED
from study.snapshots import Keeper, Keeping
from study.trial import INTERRUPTED, Ending, Job, Outcome

__all__ = ["Session"]

_LOG_CHARACTERS = 2_000
_TRACEBACK_CHARACTERS = 8000


class Session:
    """A worker's hold on a study.

    Attributes:
        conditions: what the study remembers.
        objective: what its trials evaluate.
        mailbox: live commands to the trial that was asked for last.
        keeper: snapshots of the trial that runs in this process.
    """

    mailbox: Mailbox | None = None
    keeper: Keeper | None = None

    def __init__(
        self,
        study: Study,
        conditions: Conditions,
        objective: Objective,
        keeping: Keeping | None = None,
    ) -> None:
        self.study = study
        self._keeping = settled(keeping or Keeping(), conditions)
        self.storage = storage_of(study)
        self.conditions = conditions
        self.objective = objective
        self._beaten = -math.inf
        self._settled = time.monotonic()  # whoever opens a session has settled
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

    def ask(self, extra: Mapping[str, Any], stall: float = 600.0, *, prepared: bool = True) -> Job:
        """Start a trial: draw its spec and write down who runs it.

        Args:
            extra: further attributes of the trial, such as the ranks' hosts.
            stall: seconds that the trial may be silent; who runs it stops it then.
            prepared: whether the objective is prepared in this process, and knows what it stands on.
        """
        owner = {
            "host": socket.gethostname(), "pid": os.getpid(), "stall": stall,
            "keeping": self._keeping.record(),
        }  # fmt: skip
        uid = uuid.uuid4().hex
        # A trial begins with its owner, so that whatever happens, the next worker knows whose it was.
        stamp = {"uid": uid, "owner": owner, **(self._made() if prepared else {}), **extra}
        with self.storage.stamped(stamp):
            trial = self._trial = self.study.ask()
        with self._failing("asking"):
            liveness.beat_heart(self.storage.engine, trial._trial_id)
            self._curves = CurveWriter(self.storage.engine, uid)
            self.mailbox = Mailbox(self.storage.engine, uid)
            spec = encode(self.objective, self.objective.suggest(trial))
            trial.set_user_attr("spec", spec.decode())
            return self._job(spec, extra if prepared else None)

    def disconnect(self) -> None:
        """Hold no connection to the database until it is asked again."""
        self.storage.engine.dispose()

    def take(self, number: int) -> None:
        """Take over a running trial that another process asked for and still answers for.

        Raises:
            UsageError: the study has no such trial, or it does not run.
        """
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        found = next((t for t in trials if t.number == number), None)
        if found is None:
            raise UsageError(f"trial {number} of study {self.study.study_name!r} is not running")
        self.storage.adopt(found._trial_id)
        self._trial = Trial(self.study, found._trial_id)
        self._curves = CurveWriter(self.storage.engine, uid := found.user_attrs["uid"])
        self.mailbox = Mailbox(self.storage.engine, uid)

    def begin(self, extra: Mapping[str, Any]) -> Job:
        """Write down where the trial that was taken runs, and return it."""
        trial, _ = self._running()
        self.storage.set_trial_user_attrs(trial._trial_id, {**self._made(), **extra})
        return self._job(trial.user_attrs["spec"].encode(), extra)

    def _job(self, spec: bytes, here: Mapping[str, Any] | None) -> Job:
        """Return the trial as its ranks know it; `here` is where they are, if they are in this process."""
        trial, curves = self._running()
        job = Job(trial.number, spec, digest(spec), trial.params.get("ranks"))
        if here is None:
            return job
        wanted = {"spec": job.digest, "ranks": here.get("ranks", 1), **self.objective.identity}
        begun = self.storage.get_trial(trial._trial_id)
        hold = Hold(self.storage, self.study.study_name, begun, wanted)
        self.keeper = hold.keeper()
        resumed = hold.resume(curves, self.objective.metric)
        if resumed is not None and self.mailbox is not None:
            self.mailbox.inherit(hold.uids)
        return replace(job, resumed=resumed)

    def _made(self) -> dict[str, Any]:
        return {"provenance": provenance() | self.objective.identity}

    def beat(self) -> None:
        """Let the running trial's heart beat, now and then; whatever the database says to it costs a beat.

        Nothing is raised: the other ranks are on their way into a collective.
        """
        now = time.monotonic()
        if self._trial is None or now - self._beaten < liveness.EVERY:
            return
        self._beaten = now
        with suppress(UsageError, SQLAlchemyError):
            liveness.beat_heart(self.storage.engine, self._trial._trial_id, 0.0)

    def go_on(self, launch: str) -> list[str]:
        """Take the place of a launch that was ended: its running trials fail, and those that count are returned.

        Args:
            launch: its name, which its trials remember.

        Returns:
            the states of its complete and pruned trials.
        """
        trials = self.study.get_trials(deepcopy=False)
        # The launch of what was brought from another study worked on that one.
        own = [trial for trial in trials if IMPORTED not in trial.user_attrs]
        mine = [trial for trial in own if trial.user_attrs.get("launch") == launch]
        for trial in mine:
            if trial.state == TrialState.RUNNING and not liveness.owner_lives(trial):
                liveness.fail_trial(self.study, trial, "its launch was ended, and started again")
        counted = (TrialState.COMPLETE, TrialState.PRUNED)
        return [trial.state.name.lower() for trial in mine if trial.state in counted]

    def settle_stale(self) -> None:
        """Fail the study's trials whose processes are no more, if that was not seen to lately."""
        now = time.monotonic()
        if now - self._settled >= liveness.STALE_EVERY:
            self._settled = now
            liveness.settle_stale(self.study)

    def settle(self, reason: str, tail: str = "", *, again: bool = False) -> Ending:
        """Return how the trial ended whose job is over; one that nobody ended fails.

        Args:
            reason: why it fails, if it does.
            tail: the end of what its job printed, kept with the reason.
            again: whether a trial that nobody ended is queued again.
        """
        trial, _ = self._running()
        with suppress(UpdateFinishedTrialError):
            if self.storage.look_again(trial._trial_id).state == TrialState.RUNNING:
                self.abandon(reason, tail, again=again, fault=not again)
        self._trial = self._curves = None
        return _ending(self.storage.look_again(trial._trial_id))

    def keep_log(self, tail: str) -> None:
        """Store the end of what the running trial's job printed, for whoever watches from elsewhere."""
        trial, _ = self._running()
        # Its job may just have ended it.
        with suppress(UpdateFinishedTrialError):
            self.storage.set_trial_user_attrs(trial._trial_id, {"log": tail[-_LOG_CHARACTERS:]})

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

    def _write(self, trial: Trial, curves: CurveWriter, outcome: Outcome) -> None:
        curves.flush()
        attributes: dict[str, Any] = {"cost": dict(outcome.cost)}
        if outcome.state == "complete" and outcome.result is not None:
            attributes |= dict(outcome.result.attributes)
            keep_files(trial, self.conditions.artifacts, outcome.result.files)
            self._tell(TrialState.COMPLETE, attributes, outcome.result.value)
        elif outcome.state == "pruned":
            self._tell(TrialState.PRUNED, attributes)
        else:
            tracebacks = {str(r): t[-_TRACEBACK_CHARACTERS:] for r, t in outcome.failures.items()}
            failed = {"failure": outcome.reason, "tracebacks": tracebacks}
            self._fail(attributes | failed, again=outcome.state == "interrupted")

    @contextmanager
    def _failing(self, doing: str) -> Iterator[None]:
        """Fail the trial for whatever is raised: an error must not leave it running for ever."""
        try:
            yield
        except BaseException as error:
            self.abandon(f"{doing}: {type(error).__name__}: {error}", fault=True)
            raise

    def abandon(
        self, reason: str, tail: str = "", *, again: bool = False, fault: bool = False
    ) -> None:
        """Fail the running trial, if there is one: nobody will finish it.

        Args:
            reason: why.
            tail: the end of what its job printed, if that is known.
            again: whether to queue its spec again: nothing was wrong with it.
            fault: whether whoever ran it was ended, so that it may go on from a snapshot.
        """
        if self._trial is None:
            return
        printed = {"tracebacks": {"log": tail[-_TRACEBACK_CHARACTERS:]}} if tail else {}
        self._fail({"failure": reason, **printed}, again=again, fault=fault)

    def _fail(
        self, attributes: Mapping[str, Any], *, again: bool = False, fault: bool = False
    ) -> None:
        """Fail the trial, and queue the next attempt at it where there is one."""
        trial = self.storage.look_again(cast(Trial, self._trial)._trial_id)
        following = successor(trial, interrupted=again) if again or fault else None
        given = {**attributes, **self._commanded()}
        if not end_short(self.study, trial, given, following):
            raise UpdateFinishedTrialError(f"trial {trial.number} was ended by somebody else")
        self._leave(trial, kept=following is not None)

    def _running(self) -> tuple[Trial, CurveWriter]:
        if self._trial is None or self._curves is None:
            raise RuntimeError("no trial is running")
        return self._trial, self._curves

    def _tell(
        self, state: TrialState, attributes: Mapping[str, Any], value: float | None = None
    ) -> None:
        trial = cast(Trial, self._trial)
        self.storage.set_trial_user_attrs(trial._trial_id, {**attributes, **self._commanded()})
        ended = self.storage.get_trial(trial._trial_id)
        self.study.tell(trial, value, state)
        self._leave(ended, kept=False)

    def _commanded(self) -> dict[str, str]:
        # A trial that was commanded is not what its spec alone would give.
        history = self.mailbox.history if self.mailbox else ""
        return {"commands": history} if history else {}

    def _leave(self, trial: FrozenTrial, *, kept: bool) -> None:
        """Leave a trial that has ended; unless another goes on with it, nothing of it is left to be told or kept."""
        self._trial = self._curves = self.keeper = None
        if kept:
            return
        if self.mailbox:
            self.mailbox.close()
        forget_snapshots(trial)


def _ending(trial: FrozenTrial) -> Ending:
    if trial.state == TrialState.COMPLETE:
        return Ending("complete", trial.value)
    if trial.state == TrialState.PRUNED:
        return Ending("pruned")
    reason = trial.user_attrs.get("failure")
    return Ending("interrupted" if reason == INTERRUPTED else "failed", reason=reason)
