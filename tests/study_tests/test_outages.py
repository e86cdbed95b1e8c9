"""docs/failures.md on databases: away for less than a minute, they cost no trial, no report, and double none."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.outages import FAULTS, survives

SECONDS = [1.0, *(pytest.param(s, marks=pytest.mark.slow) for s in (5.0, 30.0))]
CASES = [pytest.param(*fault, id=" ".join(fault[:2])) for fault in FAULTS]


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize(("engine", "what", "fault"), CASES)
def test_a_trial_survives_a_database_that_is_away(
    engine: str,
    what: str,
    fault: Any,
    seconds: float,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    sqlite_template: Path,
) -> None:
    if engine == "sqlite":
        place: Any = tmp_path / "study.db"
        place.write_bytes(sqlite_template.read_bytes())
        url = f"sqlite:///{place}"
    else:
        place = request.getfixturevalue(f"{engine}_server")
        place.empty()
        url = place.url
    found = survives(url, "s", fault, place, seconds)
    assert found.pop("blocked") > seconds / 2  # the fault was met
    assert found == {"lost": 0, "missing": 0, "doubled": 0}
