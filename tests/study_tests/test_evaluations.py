from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest

from study.evaluations import read_evaluations, save_evaluations
from study.search.storage import open_storage


@pytest.fixture
def engine(database_url: str) -> Any:
    return open_storage(database_url, create=True).engine


def table(attacks: Sequence[str], error: float = 0.5) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "attack": attack, "epsilon": epsilon, "classifier": classifier, "error": error,
                "low": 0.4, "high": 0.6, "l2": 1.5, "images": 100, "unknown": "not kept",
            }
            for attack in attacks
            for epsilon in (16, 4)
            for classifier in ("z", "a")
        ]
    )  # fmt: skip


def test_rows_come_back_in_the_order_they_were_stored(engine: Any) -> None:
    save_evaluations(engine, "s", table(["noop", "best"]))
    save_evaluations(engine, "s", table(["again"]))
    found = read_evaluations(engine, "s")
    expected = table(["noop", "best", "again"]).drop(columns="unknown")
    pd.testing.assert_frame_equal(found.drop(columns="made"), expected)
    assert found["made"].is_monotonic_increasing


def test_an_attack_that_is_scored_again_replaces_its_rows(engine: Any) -> None:
    save_evaluations(engine, "s", table(["noop", "best"]))
    save_evaluations(engine, "other", table(["best"]))
    save_evaluations(engine, "s", table(["best"], error=0.9)[:1])
    found = read_evaluations(engine, "s")
    assert found["attack"].tolist() == ["noop"] * 4 + ["best"]
    assert found["error"].tolist() == [0.5] * 4 + [0.9]
    assert len(read_evaluations(engine, "other")) == 4


def test_nothing_stored_is_nothing_read(engine: Any) -> None:
    assert read_evaluations(engine, "s").empty
    save_evaluations(engine, "s", table([]))
    save_evaluations(engine, "s", table(["best"])[:0])
    found = read_evaluations(engine, "s")
    assert found.empty
    assert "error" in found.columns


def test_rows_that_cannot_be_stored_leave_the_old_ones(engine: Any) -> None:
    save_evaluations(engine, "s", table(["best"]))
    with pytest.raises(Exception, match=r"(?i)unique"):
        save_evaluations(engine, "s", pd.concat([table(["best"])] * 2))
    assert len(read_evaluations(engine, "s")) == 4
