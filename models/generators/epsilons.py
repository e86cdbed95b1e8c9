"""Budgets: which ones an attack network is made for, and how it treats them."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

__all__ = ["Epsilons"]


class Epsilons(BaseModel):
    """The budgets an attack network is made for.

    Attributes:
        mode: `heads`: one output head per budget (the NIPS'17 entry); `scaled`: one head whose output
            is scaled to every budget; `film`: one head on features that the budget modulates
            (`models.generators.film`); `single`: trained for one budget, scaled to every other.
        values: the budgets in 1/255 units, increasing, each 1..255; 4..16 as in the NIPS'17 contest.
        single: the budget in 1/255 units, 1..255, that `single` is trained for (`single` only).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["heads", "scaled", "film", "single"] = "heads"
    values: tuple[int, ...] = Field(tuple(range(4, 17)), min_length=1)
    single: int = Field(8, ge=1, le=255)

    @field_validator("values")
    @classmethod
    def _increasing(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if list(values) != sorted(set(values)) or not 1 <= values[0] <= values[-1] <= 255:
            raise ValueError("budgets must be increasing integers, each 1..255")
        return values

    @property
    def trained(self) -> tuple[int, ...]:
        """The budgets that training draws from."""
        return (self.single,) if self.mode == "single" else self.values

    def nearest(self, epsilon: NDArray[np.integer]) -> NDArray[np.intp]:
        """Return the index of the budget nearest to each `epsilon`, the smaller of two as near."""
        distance = np.abs(np.asarray(self.values)[None] - np.asarray(epsilon)[:, None])
        nearest: NDArray[np.intp] = distance.argmin(axis=1)
        return nearest

    def within(self, epsilon: NDArray[np.integer]) -> NDArray[np.integer]:
        """Return each `epsilon`, or the end of the range of budgets that is nearest to it."""
        nearest: NDArray[np.integer] = np.clip(epsilon, self.values[0], self.values[-1])
        return nearest

    def served_by(self, epsilon: int) -> int:
        """Return the budget whose perturbation is scaled to `epsilon`; `epsilon` itself where none is."""
        if self.mode == "heads":
            return self.values[int(self.nearest(np.array([epsilon]))[0])]
        if self.mode == "film":
            return int(self.within(np.array([epsilon]))[0])
        return self.single if self.mode == "single" else epsilon
