"""What is optimised: the interface an objective fills in, and how one is found by name."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from inspect import isabstract
from typing import Any, ClassVar, Literal, Protocol

from pydantic import TypeAdapter, ValidationError

from study.errors import UsageError
from study.resolve import resolve
from study.space import Domain, Scalar, Suggester
from study.world import World

__all__ = ["Objective", "Report", "Result", "decode", "encode", "explain", "load_objective"]


class Report(Protocol):
    """One collective per call: rank 0 stores and asks the pruner, every rank hears the verdict."""

    def __call__(
        self, step: int, value: float | None = None, logs: Mapping[str, float] | None = None
    ) -> None:
        """Report progress; every rank calls it with the same step, rank 0's numbers count.

        Args:
            step: progress in images seen (or whatever the objective counts); >= 0, increasing.
            value: the objective's value so far, or None when only `logs` are new.
            logs: further curve keys to numbers, such as {"loss": 0.1, "error.eps08": 0.4}.

        Raises:
            TrialPruned: on every rank, when the pruner or a command says so.
            TrialStopped: on every rank, when a command says so; the trial completes with the last value.
            TrialFailed: on every rank, when rank 0 could not store the report.
        """


@dataclass(frozen=True)
class Result:
    """What a finished trial leaves: its value, attributes for the tables, files for the artifacts."""

    value: float
    attributes: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


class Objective(ABC):
    """Something to optimise, built from a study's settings: `Objective(**settings)`.

    A subclass sets `spec_type` to whatever `suggest` returns: any type pydantic can write as JSON and
    read back (a dict, a dataclass, a pydantic model). Only rank 0 suggests; every rank evaluates.
    """

    spec_type: ClassVar[Any] = dict[str, Any]
    direction: ClassVar[Literal["maximize", "minimize"]] = "maximize"
    metric: ClassVar[str] = "value"

    def __init__(self, **settings: Any) -> None:
        if settings:
            raise UsageError(
                f"{type(self).__name__} takes no settings, and was given {', '.join(sorted(settings))}"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that must stay the same for trials to compare, as JSON values; kept in the study."""
        return {}

    @property
    def default(self) -> Mapping[str, Scalar]:
        """Parameters of trial 0, or nothing to let the sampler begin."""
        return {}

    @property
    def identity(self) -> dict[str, Any]:
        """Hashes of what trials are computed from (data, classifiers), as JSON values; after `prepare`."""
        return {}

    @property
    def settable(self) -> Mapping[str, Domain]:
        """Hyperparameters that a command may set while a trial trains (see `study.steering`), by name."""
        return {}

    @property
    def note(self) -> str:
        """What a study of this objective compares, in Markdown, for the dashboard."""
        return (type(self).__doc__ or type(self).__name__).strip().splitlines()[0]

    def prepare(self, world: World) -> None:  # noqa: B027  optional: most objectives need nothing
        """Do once, before the first trial, what every trial needs (train classifiers, load data)."""

    @abstractmethod
    def suggest(self, trial: Suggester) -> Any:
        """Draw a spec from the search space (rank 0 only; no side effects, no training).

        A parameter named `ranks` is the number of ranks that `jigsaw launch` runs the trial on.
        """

    @abstractmethod
    def evaluate(self, spec: Any, world: World, report: Report) -> float | Result:
        """Train and score `spec` on every rank of `world`; the returned value of rank 0 counts."""


def load_objective(name: str, settings: Mapping[str, Any]) -> Objective:
    """Build the objective named `package.module:Name` or `path/to/file.py:Name`.

    Raises:
        UsageError: there is no such thing, it is no objective, or it refuses the settings.
    """
    found = resolve(name, "objective")
    if not (isinstance(found, type) and issubclass(found, Objective)):
        raise UsageError(
            f"objective {name!r} is {found!r}, not a subclass of study.objective.Objective"
        )
    if isabstract(found):
        lacking = " and ".join(sorted(found.__abstractmethods__))
        raise UsageError(f"objective {name!r} does not define {lacking}")
    try:
        return found(**settings)
    except ValidationError as error:
        raise UsageError(f"settings of {name}: {explain(error)}") from None
    except TypeError as error:
        raise UsageError(f"objective {name!r} refuses its settings: {error}") from None


def encode(objective: Objective, spec: Any) -> bytes:
    """Return the spec as JSON bytes: what is broadcast, stored and hashed."""
    return TypeAdapter(objective.spec_type).dump_json(spec)


def decode(objective: Objective, text: bytes) -> Any:
    """Return the spec that `encode` wrote.

    Raises:
        UsageError: the text is no spec of this objective.
    """
    try:
        return TypeAdapter(objective.spec_type).validate_json(text)
    except ValidationError as error:
        raise UsageError(f"spec: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """Return pydantic's first complaint as one sentence: field, value, what is allowed."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "value"
    message = first["msg"].removeprefix("Value error, ")
    return f"{place} is {first['input']!r}: {message[0].lower()}{message[1:]}"


def digest(text: bytes) -> str:
    """Return the sha256 of an encoded spec, in hex."""
    return sha256(text).hexdigest()
