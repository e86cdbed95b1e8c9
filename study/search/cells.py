"""What the cells of Optuna's tables mean: moments, special numbers, distributions, states."""

import math
from datetime import UTC, datetime
from functools import lru_cache

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import TrialState

__all__ = ["SPECIAL", "UNFINISHED", "distribution", "local_time", "now"]

UNFINISHED = (TrialState.RUNNING, TrialState.WAITING)
"""States a trial may leave."""

SPECIAL = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}
"""What is named beside a missing number, because databases differ in what a double may hold."""


def now() -> datetime:
    """Return the time as Optuna keeps it: in UTC, and silent about it."""
    return datetime.now(UTC).replace(tzinfo=None)


def local_time(moment: datetime | None) -> datetime | None:
    """Return a moment of the database as this machine's time.

    Optuna stores UTC and shows the time of this machine; so do we.
    """
    if moment is None:
        return None
    return moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


@lru_cache(maxsize=4096)
def distribution(text: str) -> BaseDistribution:
    """Return the distribution a JSON text stands for; shared by all that have it, so never change one."""
    return json_to_distribution(text)
