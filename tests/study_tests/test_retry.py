"""A database that goes away for a moment costs no trial and no report, and nothing is stored twice."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.study import Study
from optuna.trial import TrialState
from sqlalchemy import create_engine

from study.errors import UsageError
from study.objective import Result
from study.retry import run
from study.search import incremental
from study.search.frames import curves_frame
from study.search.joining import open_session
from study.search.studies import load_study
from study.trial import Outcome

SERVERS = pytest.mark.parametrize("database_url", ["postgresql", "mariadb"], indirect=True)


@pytest.fixture
def socket(request: pytest.FixtureRequest, database_url: str) -> Path:
    kind = "mariadb" if database_url.startswith("mysql") else "postgresql"
    found: Path = request.getfixturevalue(f"{kind}_server").socket
    return found


def finished_once(study: Study, reports: dict[int, float]) -> None:
    assert [t.state for t in study.trials] == [TrialState.COMPLETE]
    assert study.trials[0].intermediate_values == reports
    frame = curves_frame(study)
    assert dict(zip(frame["step"], frame["value"], strict=True)) == reports


@pytest.mark.parametrize("queued", [True, False])
def test_what_is_done_twice_is_done_once(
    create: Callable[..., Study], database_url: str, monkeypatch: pytest.MonkeyPatch, queued: bool
) -> None:
    """Nobody hears that a transaction was stored, so that it is repeated."""

    def twice(engine: Any, work: Any, patience: float) -> Any:
        run(engine, work)
        return run(engine, work)

    create(objective="Tiny" if queued else "Plain")
    session = open_session(database_url, "s", {})
    monkeypatch.setattr(incremental, "run", twice)
    session.ask({})
    session.record(1, 0.25, {})
    session.record(2, 0.5, {})
    session.finish(Outcome("complete", Result(0.5)))
    finished_once(load_study(database_url, "s"), {1: 0.25, 2: 0.5})


@SERVERS
def test_a_server_that_stays_away_is_one_sentence(
    create: Any, database_url: str, socket: Path
) -> None:
    create()
    session = open_session(database_url, "s", {})
    session.ask({})
    session.storage._patience = 0.2
    back = away(session, socket, 1.0)
    with pytest.raises(UsageError, match=r"^storage '.*' did not answer for 0.2 s: ") as caught:
        session.record(1, 0.25, {})
    assert "\n" not in str(caught.value)
    back.join()
    session.abandon("the database was away")


def test_what_stays_away_is_named_without_its_password() -> None:
    engine = create_engine("postgresql+psycopg://u:pa55@127.0.0.1:1/db?sslpassword=pa55")
    with pytest.raises(UsageError, match=r"^storage '.*127.0.0.1:1/db.*' did not answer") as caught:
        run(engine, lambda connection: None, patience=0)
    assert "pa55" not in str(caught.value)


def away(session: Any, socket: Path, seconds: float) -> threading.Thread:
    """Make a server unreachable, and reachable again after a while."""
    hidden = socket.rename(socket.with_suffix(".hidden"))
    session.storage.engine.dispose()

    def come_back() -> None:
        time.sleep(seconds)
        hidden.rename(socket)

    thread = threading.Thread(target=come_back)
    thread.start()
    return thread
