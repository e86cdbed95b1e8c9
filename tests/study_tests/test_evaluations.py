from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import text

from study import schema
from study.evaluations import (
    EVALUATIONS,
    add_worst,
    forget_evaluations,
    read_evaluations,
    save_evaluations,
)
from study.search.storage import open_storage


@pytest.fixture
def engine(database_url: str) -> Any:
    return open_storage(database_url, create=True).engine


def table(attacks: Sequence[str], error: float = 0.5) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "attack": attack, "epsilon": epsilon, "classifier": classifier, "error": error,
                "low": 0.4, "high": 0.6, "gain": 0.25, "asr": 0.3 if classifier == "a" else 0.75,
                "worst": 0.3, "fooling": 0.5, "l2": 1.5, "ssim": 0.9, "images_per_second": float("nan"),
                "relation": "cross", "seeds": 1, "images": 100, "unknown": "not kept",
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
    pd.testing.assert_frame_equal(found.drop(columns=["made", "weights"]), expected)
    assert found["made"].is_monotonic_increasing


def test_an_attack_that_is_scored_again_replaces_its_rows(engine: Any) -> None:
    save_evaluations(engine, "s", table(["noop", "best"]))
    save_evaluations(engine, "other", table(["best"]))
    save_evaluations(engine, "s", table(["best"], error=0.9)[:1])
    found = read_evaluations(engine, "s")
    assert found["attack"].tolist() == ["noop"] * 4 + ["best"]
    assert found["error"].tolist() == [0.5] * 4 + [0.9]
    assert len(read_evaluations(engine, "other")) == 4


def test_a_deleted_study_leaves_nothing_to_one_of_its_name(engine: Any) -> None:
    save_evaluations(engine, "s", table(["best"]))
    save_evaluations(engine, "other", table(["best"]))
    forget_evaluations(engine, "s")
    assert read_evaluations(engine, "s").empty
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
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        save_evaluations(engine, "s", pd.concat([table(["best"])] * 2))
    assert len(read_evaluations(engine, "s")) == 4


OLD = """
CREATE TABLE jigsaw_evaluations (
    study VARCHAR(255) NOT NULL, attack VARCHAR(255) NOT NULL, classifier VARCHAR(255) NOT NULL,
    epsilon INTEGER NOT NULL, error DOUBLE PRECISION NOT NULL, low DOUBLE PRECISION NOT NULL,
    high DOUBLE PRECISION NOT NULL, l2 DOUBLE PRECISION NOT NULL, images INTEGER NOT NULL,
    place INTEGER NOT NULL, made TIMESTAMP NOT NULL,
    PRIMARY KEY (study, attack, classifier, epsilon)
)
"""


def test_a_table_of_version_0_1_0_gains_its_columns_and_keeps_its_rows(engine: Any) -> None:
    with engine.begin() as connection:
        connection.execute(text(OLD))
        connection.execute(
            text(
                "INSERT INTO jigsaw_evaluations VALUES "
                "('s', 'old', 'vgg', 4, 0.5, 0.4, 0.6, 1.5, 100, 0, '2026-01-01 00:00:00')"
            )
        )
    row = read_evaluations(engine, "s").iloc[0]
    assert (row.attack, row.error, row.l2, row.images) == ("old", 0.5, 1.5, 100)
    assert (row.relation, row.seeds) == ("", 1)
    assert row[["gain", "asr", "worst", "fooling", "ssim"]].isna().all()
    save_evaluations(engine, "s", table(["best"]))
    found = read_evaluations(engine, "s")
    assert found["attack"].tolist() == ["old"] + ["best"] * 4
    assert found["worst"].tolist()[1:] == [0.3] * 4


def test_columns_are_added_once_when_two_processes_look_at_once(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.begin() as connection:
        connection.execute(text(OLD))
    looked, inspect = [], schema.inspect

    class Stale:
        """What a process saw just before another added every column."""

        def get_columns(self, name: str) -> list[dict[str, Any]]:
            columns = inspect(engine).get_columns(name)
            if not looked:
                looked.append(True)
                schema.ensure_columns(engine, EVALUATIONS)
            return columns

    monkeypatch.setattr(schema, "inspect", lambda engine: Stale())
    schema.ensure_columns(engine, EVALUATIONS)
    names = [column["name"] for column in inspect(engine).get_columns(EVALUATIONS.name)]
    assert sorted(names) == sorted(column.name for column in EVALUATIONS.columns)


def test_rows_that_lack_new_numbers_are_stored(engine: Any) -> None:
    few = table(["best"])[
        ["attack", "epsilon", "classifier", "error", "low", "high", "l2", "images"]
    ]
    save_evaluations(engine, "s", few)
    assert read_evaluations(engine, "s")["asr"].isna().all()


def test_the_worst_is_the_least_over_what_was_not_seen() -> None:
    frame = pd.DataFrame(
        [
            ("a", 4, "seen", 0.1),
            ("a", 4, "family", 0.5),
            ("a", 4, "cross", 0.4),
            ("a", 8, "", 0.9),
            ("b", 4, "seen", 0.2),
        ],
        columns=["attack", "epsilon", "relation", "asr"],
    )
    worst = add_worst(frame)["worst"]
    assert worst[:4].tolist() == [0.4, 0.4, 0.4, 0.9]
    assert worst.isna()[4]
