"""A storage that reads news only must ask little."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import create_trial
from sqlalchemy import Engine, event

from study.search.incremental import storage_of
from study.search.storage import open_storage


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    seen: list[str] = []

    def see(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", see)
    yield seen
    event.remove(engine, "before_cursor_execute", see)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        (optuna.pruners.NopPruner(), [1, 1, 1, 1]),
        (optuna.pruners.MedianPruner(0), [2, 1, 1, 1]),
        (optuna.pruners.SuccessiveHalvingPruner(1, 2), [3, 3, 1, 3]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_report_takes_few_statements(database_url: str, name: Any, most: list[int]) -> None:
    study = optuna.create_study(
        storage=open_storage(database_url), pruner=name,
        sampler=optuna.samplers.RandomSampler(), direction="maximize",
    )  # fmt: skip
    for _ in range(3):
        study.add_trial(create_trial(value=0.0, intermediate_values=dict.fromkeys(range(6), 0.0)))
    storage = storage_of(study)
    trial = study.ask()
    counts = []
    for step in range(1, 5):
        with statements(storage.engine) as seen, storage.one_report():
            trial.report(float(step), step)
            assert not trial.should_prune()
        counts.append(len(seen))
    assert counts == most


def test_a_trial_that_another_worker_finishes_is_news(database_url: str, tmp_path: Path) -> None:
    mine = optuna.create_study(
        storage=open_storage(database_url), study_name="s",
        pruner=optuna.pruners.MedianPruner(0), direction="maximize",
    )  # fmt: skip
    theirs = optuna.load_study(storage=open_storage(database_url), study_name="s")
    other, trial = theirs.ask(), mine.ask()
    other.report(5.0, 2)
    with storage_of(mine).one_report():
        trial.report(1.0, 1)
        assert not trial.should_prune()
    theirs.tell(other, 5.0)
    with storage_of(mine).one_report():
        trial.report(1.0, 2)
        assert trial.should_prune()
