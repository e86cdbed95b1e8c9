"""Supervise a launch: ask for trials, run each as a job of its own, and settle whatever a job leaves unsettled.

One thread looks after all jobs in turns. A job's rank 0 reports and writes down how its trial ended; whatever
becomes of a job, its trial does not stay running, and the next one starts.
"""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING, cast

from study.attempts import Attempt, Jobs
from study.errors import JigsawError, TrialInterrupted, UsageError
from study.exits import blameless, last_line
from study.launchers import Launcher, Place
from study.objective import Objective
from study.snapshots import Keeping
from study.trial import INTERRUPTED, Job
from study.worker import Progress, silent

if TYPE_CHECKING:
    from study.search.session import Session

__all__ = ["Launch", "Tally", "supervise"]

_POLL_SECONDS = 0.05
_LOG_SECONDS = 10.0
_DONE = ("complete", "pruned")


@dataclass(frozen=True)
class Launch:
    """What a launch is to do.

    Attributes:
        storage: database URL.
        study: name of the study.
        n_trials: complete and pruned trials of this launch to stop at; >= 1.
        places: where jobs run; as many run at a time.
        ranks: of a job whose trial has no parameter `ranks`; >= 1.
        timeout: seconds after which no further trial is started; None means no limit.
        stall: seconds without progress of all ranks after which a job is killed; > 0.
        grace: seconds that jobs have to end when the launch is stopped; >= 0.
        max_failures: failed trials in a row after which the launch gives up; >= 1.
        keeping: how snapshots of trials are kept.
        spares: whether each place loads its next job while one runs, unless trials choose their ranks.
        folder: where jobs have their folders, which all machines see; None means this machine's temporary folder.
        name: what this launch has in common with those that go on in its place; empty where none will.
        again: whether it goes on in the place of one that was ended.
    """

    storage: str
    study: str
    n_trials: int
    places: Sequence[Place] = (Place(),)
    ranks: int = 1
    timeout: float | None = None
    stall: float = 600.0
    grace: float = 10.0
    max_failures: int = 5
    keeping: Keeping = field(default_factory=Keeping)
    spares: bool = False
    folder: Path | None = None
    name: str = ""
    again: bool = False


@dataclass
class Tally:
    """What a launch has done so far."""

    states: dict[str, int] = field(default_factory=dict)
    failures_in_a_row: int = 0

    @property
    def done(self) -> int:
        """Trials that count."""
        return sum(self.states.get(state, 0) for state in _DONE)

    def add(self, state: str) -> None:
        """Count one more."""
        self.states[state] = self.states.get(state, 0) + 1
        # An interrupted trial says nothing about those that fail.
        if state != INTERRUPTED:
            self.failures_in_a_row = 0 if state in _DONE else self.failures_in_a_row + 1


def supervise(
    launch: Launch, launcher: Launcher | None = None, progress: Progress | None = None
) -> Tally:
    """Run trials as jobs of their own until the launch has what it wants.

    Args:
        launch: what to do.
        launcher: starts the jobs; None chooses one for each job (see `study.attempts.launcher_for`).
        progress: called with ("trial" | "end", facts).

    Returns:
        the tally: with `max_failures` failures in a row when the launch gave up.

    Raises:
        UsageError: the study cannot be worked on, or the database stays away.
        TrialInterrupted: a signal asked to stop; every trial is settled, and interrupted ones are queued again.
    """
    from study.search.joining import open_session
    from study.search.session import Session

    first = open_session(launch.storage, launch.study, {}, launch.keeping)
    with TemporaryDirectory(prefix="jigsaw-", dir=launch.folder) as folder, _stop_signals() as stop:
        jobs = Jobs(launch.study, launch.storage, launch.stall, Path(folder), launcher)
        if type(first.objective).prepare is not Objective.prepare:
            _prepare(jobs, launch, stop)
        slots = [
            _Slot(Session(first.study, first.conditions, first.objective, launch.keeping), place)
            for place in launch.places
        ]
        return _Supervisor(launch, jobs, slots, stop, progress or silent).run()


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect the signals that ask to stop."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    asking = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
        asking.append(signal.SIGHUP)
    previous = {number: signal.signal(number, ask) for number in asking}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _prepare(jobs: Jobs, launch: Launch, stop: list[int]) -> None:
    """Prepare once, before several jobs would do the same: what cannot be is said before any trial."""
    attempt = jobs.start(launch.ranks, launch.places[0])
    try:
        while not attempt.over():
            if stop:
                raise TrialInterrupted("stopped while preparing")
            time.sleep(_POLL_SECONDS)
    finally:
        attempt.running.kill()
    code = attempt.running.poll()
    if attempt.killed or code:
        said = last_line(attempt.running.logs()).removeprefix("jigsaw: ")
        raise UsageError(said) if code == 2 else JigsawError(f"preparing: {attempt.reason}")


@dataclass
class _Slot:
    """A place that runs one job after another."""

    session: "Session"
    place: Place
    job: Job | None = None
    attempt: Attempt | None = None
    spare: Attempt | None = None
    looked: float = 0.0
    log: str = ""


class _Supervisor:
    def __init__(
        self,
        launch: Launch,
        jobs: Jobs,
        slots: Sequence[_Slot],
        stop: list[int],
        progress: Progress,
    ) -> None:
        self._launch = launch
        self._jobs = jobs
        self._slots = slots
        self._stop = stop
        self._progress = progress
        self._named = {"launch": launch.name} if launch.name else {}
        self._tally = Tally()
        self._started = time.monotonic()

    def run(self) -> Tally:
        try:
            if self._launch.again:
                for state in self._slots[0].session.go_on(self._launch.name):
                    self._tally.add(state)
            while self._wanted() or self._busy():
                self._turn()
                if self._stop:
                    self._leave()
                time.sleep(_POLL_SECONDS)
        finally:
            # Reached with jobs left when the database stayed away: a trial that cannot be settled now is
            # settled by whoever joins next, because this process is gone then.
            for attempt in [a for slot in self._slots for a in (slot.attempt, slot.spare) if a]:
                attempt.running.kill()
            for slot in self._busy():
                with suppress(Exception):
                    slot.session.settle("its supervisor could not go on")
        return self._tally

    def _busy(self) -> list[_Slot]:
        return [slot for slot in self._slots if slot.job is not None]

    def _wanted(self, loaded: int = 0) -> bool:
        """Tell whether to begin a trial more than those that run, and those that jobs are loaded for."""
        late = self._launch.timeout is not None and (
            time.monotonic() - self._started >= self._launch.timeout
        )
        hopeless = self._tally.failures_in_a_row >= self._launch.max_failures
        return not (late or hopeless) and (
            self._tally.done + len(self._busy()) + loaded < self._launch.n_trials
        )

    def _turn(self) -> None:
        for slot in self._slots:
            if slot.attempt is not None and slot.attempt.over():
                self._settle(slot)
            elif slot.attempt is not None and slot.attempt.waiting:
                slot.session.beat()
            if slot.job is None and self._wanted() and not self._stop:
                self._begin(slot)
            self._load(slot)
            self._keep_log(slot)
        self._slots[0].session.settle_stale()

    def _begin(self, slot: _Slot) -> None:
        slot.job = job = slot.session.ask(self._named, self._launch.stall, prepared=False)
        ranks = self._launch.ranks if job.ranks is None else job.ranks
        self._progress("trial", {"number": job.number, "ranks": ranks})
        if not isinstance(ranks, int) or ranks < 1:
            slot.session.abandon(f"its parameter ranks is {ranks!r}; allowed: 1, 2, ...")
            slot.job = None
            raise UsageError(f"trial {job.number}: ranks is {ranks!r}; allowed: 1, 2, ...")
        if not self._stop:
            slot.attempt = self._start(slot, ranks, job.number)

    def _start(self, slot: _Slot, ranks: int, number: int) -> Attempt:
        spare, slot.spare = slot.spare, None
        if spare is None:
            return self._jobs.start(ranks, slot.place, number)
        if spare.ranks != ranks or spare.running.poll() is not None:
            spare.running.kill()
            return self._jobs.start(ranks, slot.place, number)
        spare.hand_over(number)
        return spare

    def _load(self, slot: _Slot) -> None:
        """Have a slot's next job load, as soon as the one that runs has loaded itself."""
        if not self._launch.spares or slot.spare is not None or self._stop:
            return
        chosen = slot.job is None or slot.job.ranks is not None
        if chosen or slot.attempt is None or not slot.attempt.ready:
            return
        if self._wanted(sum(other.spare is not None for other in self._slots)):
            slot.spare = self._jobs.spare(slot.attempt.ranks, slot.place)

    def _keep_log(self, slot: _Slot) -> None:
        """Store what a slot's job printed, where that has changed, now and then."""
        now = time.monotonic()
        if slot.attempt is None or now - slot.looked < _LOG_SECONDS:
            return
        log, slot.looked = slot.attempt.running.logs(), now
        if log and log != slot.log:
            slot.log = log
            slot.session.keep_log(log)

    def _settle(self, slot: _Slot, reason: str = "") -> None:
        """Learn how a slot's trial ended; one that did not fails, for `reason` or for its job's."""
        attempt, job = slot.attempt, cast(Job, slot.job)
        why = reason or (attempt.reason if attempt else "")
        tail = attempt.running.logs() if attempt and not reason else ""
        ending = slot.session.settle(why, tail, again=bool(reason))
        slot.job, slot.attempt, slot.log = None, None, ""
        self._tally.add(INTERRUPTED if blameless(ending.reason or "") else ending.state)
        self._progress("end", {"number": job.number, "ending": ending})

    def _leave(self) -> None:
        """Ask all jobs to end, wait for them, end those that are left, and say so.

        Raises:
            TrialInterrupted: always.
        """
        asked = len(self._stop)
        for slot in self._busy():
            if slot.attempt is not None:
                slot.attempt.running.signal(signal.SIGTERM)
        deadline = time.monotonic() + self._launch.grace
        while busy := self._busy():
            # A second signal waits for nobody.
            over = time.monotonic() >= deadline or len(self._stop) > asked
            for slot in busy:
                if slot.attempt is not None and over:
                    slot.attempt.running.kill()
                if slot.attempt is None or slot.attempt.running.poll() is not None:
                    self._settle(slot, INTERRUPTED)
            time.sleep(_POLL_SECONDS)
        name = signal.Signals(self._stop[0]).name
        raise TrialInterrupted(f"stopped by {name}; interrupted trials are queued again")
