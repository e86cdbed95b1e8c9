"""What a study remembers so that every worker, whenever it joins, does the same thing."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from study.errors import UsageError
from study.space import Scalar

__all__ = ["DEFAULT_OBJECTIVE", "Conditions", "agree", "parse_name"]

DEFAULT_OBJECTIVE = "objectives.attack:AttackObjective"


class Conditions(BaseModel):
    """The conditions of a study; each field is one user attribute of the Optuna study.

    Attributes:
        objective: `package.module:Name` or `path/to/file.py:Name`.
        sampler: `name:key=value,...`, such as `tpe:n_startup_trials=10` (see `study.search.samplers`).
        pruner: likewise, such as `median:n_warmup_steps=512`; steps are the objective's (images seen).
        seed: of what is sampled, together with each trial's number; where it is given, also the objective's
            setting `seed`, unless `settings` says otherwise.
        fixed: parameters narrowed to one value, such as {"loss.name": "margin"}.
        settings: the objective's own conditions (data, classifier sets, epsilon grid, budget).
        artifacts: folder where trials leave their files.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    objective: str = DEFAULT_OBJECTIVE
    sampler: str = "tpe"
    pruner: str = "median"
    seed: int = Field(0, ge=0, lt=2**31)
    fixed: dict[str, Scalar] = {}
    settings: dict[str, Any] = {}
    artifacts: str | None = None


def agree(stored: Conditions, wanted: Mapping[str, Any], study: str) -> None:
    """Check that what a worker was asked for is what the study was created with.

    Raises:
        UsageError: a wanted value differs from the study's.
    """
    for name, value in wanted.items():
        held = getattr(stored, name)
        if value is not None and value != held:
            raise UsageError(
                f"study {study!r} was created with {name} {held!r}, not {value!r}; "
                f"leave --{name} out, or create another study"
            )


def parse_name(text: str, what: str) -> tuple[str, dict[str, Scalar]]:
    """Split `name:key=value,...` into the name and its keyword arguments.

    Values are read as integers, floats, true/false or none, else kept as text.

    Raises:
        UsageError: a part has no `=`.
    """
    name, _, rest = text.partition(":")
    arguments: dict[str, Scalar] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise UsageError(
                f"{what} {text!r}: {part!r} is not key=value; expected name:key=value,..."
            )
        arguments[key.strip()] = parse_scalar(value.strip())
    return name, arguments


def parse_scalar(text: str) -> Scalar:
    """Read a number, true, false or none; anything else stays text."""
    words: dict[str, Scalar] = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
