"""Live commands of a running trial: set a hyperparameter, keep it, stop or prune, on every rank at the same iteration.

Rank 0 hears of a command from the database and passes it on; from then on every rank holds the same
commands and decides by the iteration alone when one is due, so that no further message is needed. Snapshots
that are due, and signals, take the same way.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from study.errors import TrialInterrupted, TrialPruned, TrialStopped, UsageError
from study.snapshots import Keeper, Snapshot, State, gather
from study.space import Domain, Scalar
from study.world import World

__all__ = ["Answers", "Command", "Steering", "Verb", "check_values", "steering_of"]

Verb = Literal["set", "snapshot", "stop", "prune"]
# The snapshot that a schedule asks for: a command that nobody waits to be answered.
_SCHEDULED = 0


@dataclass(frozen=True)
class Command:
    """One command to one trial.

    Attributes:
        id: its number in the database; commands of one trial are carried out in this order.
        verb: `set` values, write a `snapshot`, `stop` (train no further; the trial completes with what it has),
            or `prune`.
        values: of `set`, by the names in the objective's `settable`.
        iteration: carry it out after so many updates, >= 0; None: as soon as it arrives.
        epoch: likewise, at the first update after so many passes over the data, >= 0.
    """

    id: int
    verb: Verb
    values: Mapping[str, Scalar] = field(default_factory=dict)
    iteration: int | None = None
    epoch: float | None = None

    def __str__(self) -> str:
        return " ".join([self.verb, *(f"{name}={value}" for name, value in self.values.items())])

    @property
    def due(self) -> str:
        """When it is to be carried out, in words; empty: as soon as it arrives."""
        if self.iteration is not None:
            return f"iteration {self.iteration}"
        return "" if self.epoch is None else f"epoch {self.epoch:g}"

    def reached(self, place: tuple[int, float]) -> bool:
        """Whether its moment has come at (iteration, epoch)."""
        iteration, epoch = place
        return iteration >= (self.iteration or 0) and epoch >= (self.epoch or 0.0)


class Answers(Protocol):
    """Rank 0's side of the database: what commands there are, and what became of them."""

    def poll(self) -> Sequence[Command]:
        """Return the commands that arrived since the last call; each is returned once."""

    def answer(self, command: Command, text: str, *, done: bool) -> None:
        """Store what became of a command."""


class Steering:
    """What live commands do to one trial; every rank holds one, and all of them say the same.

    Args:
        settable: what `set` may change, by name.
        answers: on rank 0, where commands come from.
        keeper: on rank 0, where snapshots go; None keeps none.
        resumed: what the trial goes on from, the same on every rank; None at its start.
        patient: whether a signal waits until the next update begins, for a snapshot; the same on every rank.

    Attributes:
        values: the hyperparameters that were set, by name: they replace the spec's.
        notes: what the objective has to know when it goes on, besides what its training loop hands over, as
            JSON values, the same on every rank; what it writes here comes back.
        reports: (step, value, logs, seconds since the trial began) of every report so far.
        first: the iteration that the trial goes on from; 0 at its start.
    """

    def __init__(
        self,
        settable: Mapping[str, Domain] | None = None,
        answers: Answers | None = None,
        keeper: Keeper | None = None,
        resumed: Snapshot | None = None,
        *,
        patient: bool = False,
    ) -> None:
        before: Mapping[str, Any] = resumed.made if resumed else {}
        self.values: dict[str, Any] = dict(before.get("values", {}))
        self.notes: dict[str, Any] = dict(before.get("notes", {}))
        self.reports: list[Any] = list(before.get("reports", ()))
        self._settable = settable or {}
        self._answers = answers
        self._keeper = keeper
        self._patient = patient
        self._resumed = resumed
        self._kept = self.first = resumed.iteration if resumed else 0
        self._waiting: list[Command] = []
        self._before: tuple[int, float] | None = None
        self._stopped: bool = before.get("stopped", False)
        self._began: float = time.monotonic() - before.get("seconds", 0.0)

    def resume(self, world: World) -> tuple[int, State] | None:
        """Return the iteration to begin with and what this rank handed over before it; None at the start.

        Call it when everything is built that draws random numbers: their generators go on from there.
        """
        if self._resumed is None:
            return None
        return self.first, self._resumed.state(world.rank)

    def begin(
        self,
        world: World,
        iteration: int,
        epoch: float,
        save: Callable[[], State] | None = None,
    ) -> bool:
        """Begin an update: hear of commands, and carry out what is due; a collective.

        Args:
            world: the ranks.
            iteration: updates made before this one.
            epoch: passes over the data before this update.
            save: returns what this rank needs to go on from here, in another process (see `resume`); None:
                this loop cannot, and a signal ends it at once.

        Returns:
            whether to make this update; the first is always made, so that there is something to score.

        Raises:
            TrialPruned: on every rank, by command.
            TrialInterrupted: on every rank, by a signal, after a snapshot.
        """
        world.patient = self._patient and save is not None
        news = [*self.poll(), *self._scheduled(iteration)]
        if world.sum(np.array([float(bool(news))]), "step")[0]:
            self._waiting += world.bcast(news)
        place, asked = (iteration, epoch), world.asked
        due = [c for c in self._waiting if self._passed(c) or c.reached(place)]
        kept = [c for c in due if c.verb == "snapshot" and save and not self._passed(c)]
        for command in (c for c in due if c not in kept):
            late = f"{command.due} had passed when the command arrived"
            when = f"from iteration {iteration} (epoch {epoch:.2f}) on"
            self._carry_out(command, when, late if self._passed(command) else "")
        # What somebody changed is kept too: whoever goes on from here has not heard of it.
        if save and (due or (asked and iteration != self._kept)):
            self._keep(world, place, save, kept)
        if asked:
            raise TrialInterrupted(f"stopped by a signal before iteration {iteration}")
        self._before = place
        return iteration == 0 or not self._stopped

    def heard(self, step: int, value: float | None, logs: Mapping[str, float]) -> None:
        """Remember a report, for snapshots; rank 0's logs count."""
        numbers = {key: float(number) for key, number in logs.items()}
        known = None if value is None else float(value)
        self.reports.append([int(step), known, numbers, self._elapsed()])

    def _elapsed(self) -> float:
        """Return seconds since the trial began, less what lies between two attempts."""
        return time.monotonic() - self._began

    def _scheduled(self, iteration: int) -> list[Command]:
        due = self._keeper is not None and self._keeper.due(iteration)
        return [Command(_SCHEDULED, "snapshot")] if due else []

    def _keep(
        self,
        world: World,
        place: tuple[int, float],
        save: Callable[[], State],
        commands: Sequence[Command],
    ) -> None:
        """Write a snapshot, and answer those who asked for it."""
        iteration, epoch = place
        self._kept = iteration
        facts, arrays = gather(world, save())
        done, text = False, "no snapshots of this trial are kept"
        self._waiting = [command for command in self._waiting if command not in commands]
        if self._keeper is not None:
            made = {
                "iteration": iteration, "epoch": epoch, "seconds": self._elapsed(), "facts": facts,
                "values": self.values, "notes": self.notes, "reports": self.reports,
                "stopped": self._stopped,
            }  # fmt: skip
            done, text = self._keeper.write(made, arrays)
        for command in commands:
            if command.id != _SCHEDULED:
                self._answer(command, f"{text}, at iteration {iteration}", done=done)

    def poll(self) -> Sequence[Command]:
        """Return what is new on rank 0, nothing elsewhere."""
        return self._answers.poll() if self._answers else ()

    def hear(self, news: Sequence[Command], step: int, *, valued: bool) -> None:
        """Take the commands that came with a report.

        An objective that begins no iterations carries them out now, but stops only with a value.

        Args:
            news: the same on every rank.
            step: of the report.
            valued: whether a value was reported so far, the same on every rank.

        Raises:
            TrialPruned: on every rank, by command.
            TrialStopped: on every rank, by command, where no iteration will look at it.
        """
        self._waiting += news
        if self._before is None:
            for command in [c for c in self._waiting if valued or c.verb != "stop"]:
                never = f"this objective counts no iterations, so {command.due} never comes"
                self._carry_out(command, f"at step {step}", never if command.due else "")
            if self._stopped:
                raise TrialStopped(f"stopped at step {step}")

    def _passed(self, command: Command) -> bool:
        return bool(command.due) and self._before is not None and command.reached(self._before)

    def _carry_out(self, command: Command, when: str, refusal: str) -> None:
        self._waiting.remove(command)
        if command.verb == "snapshot":
            refusal = refusal or "this objective's training hands nothing over to keep"
        try:
            check_values(self._settable, command.values)
        except UsageError as error:
            refusal = refusal or str(error)
        if refusal:
            self._answer(command, refusal, done=False)
            return
        self._answer(command, when, done=True)
        self.values.update(command.values)
        self._stopped |= command.verb == "stop"
        if command.verb == "prune":
            raise TrialPruned(f"pruned by command {when}")

    def _answer(self, command: Command, text: str, *, done: bool) -> None:
        if self._answers is not None:
            self._answers.answer(command, text, done=done)


def steering_of(report: Any) -> Steering:
    """Return what live commands do to the trial that `report` belongs to; nothing where nobody listens."""
    found = getattr(report, "steering", None)
    return found if isinstance(found, Steering) else Steering()


def check_values(settable: Mapping[str, Domain], values: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return the values as their domains know them: 1 may mean 1.0.

    Raises:
        UsageError: a name is not settable, or a value is outside its domain.
    """
    for name in values:
        if name not in settable:
            allowed = ", ".join(settable) or "nothing of this objective"
            raise UsageError(f"{name!r} cannot be set while a trial trains; allowed: {allowed}")
    found = {name: settable[name].member(value) for name, value in values.items()}
    for name, value in found.items():
        if value not in settable[name]:
            raise settable[name].refusal(value)
    return found
