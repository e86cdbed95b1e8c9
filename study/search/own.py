"""A running trial that this process created or took: nobody else writes it, so that it is kept."""

import copy
from dataclasses import dataclass

from optuna.trial import FrozenTrial

__all__ = ["Own"]

_FILLED = ("_params", "_distributions", "_user_attrs", "_system_attrs", "intermediate_values")


@dataclass
class Own:
    """A trial of this process, and the study it belongs to."""

    study_id: int
    trial: FrozenTrial

    def copied(self) -> FrozenTrial:
        """Return the trial for a reader that may fill it: Optuna's Trial does."""
        twin = copy.copy(self.trial)
        for name in _FILLED:
            setattr(twin, name, dict(getattr(self.trial, name)))
        return twin
