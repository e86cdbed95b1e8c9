"""Databases that go away in the middle of a trial, for some seconds: what is lost, and what is stored twice.

SQLite is locked by another process; PostgreSQL is unreachable, or crashes and comes back; MariaDB is unreachable.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import make_url

from benchmarks.claims import Claim
from study.conditions import Conditions
from study.objective import Result, load_objective
from study.search.frames import curves_frame
from study.search.joining import open_session
from study.search.studies import create_study, load_study
from study.trial import Outcome
from tests.databases import Unavailable, mariadb, postgresql

__all__ = ["FAULTS", "Away", "claims", "hidden", "locked", "restarted", "survives"]

STEPS = 6
_OBJECTIVE = f"{Path(__file__).with_name('faults.py')}:Reporting"

Away = Callable[[Any, float], threading.Thread]
"""Takes a server (of SQLite its file) away for some seconds; returns who brings it back."""


def hidden(server: Any, seconds: float) -> threading.Thread:
    """Make a server unreachable: its socket is somewhere else."""
    place = server.socket.rename(server.socket.with_suffix(".hidden"))
    return _later(seconds, lambda: place.rename(server.socket))


def restarted(server: Any, seconds: float) -> threading.Thread:
    """Crash a server, which comes back."""
    server.stop()
    return _later(seconds, lambda: server.restart(0.0))


def locked(path: Any, seconds: float) -> threading.Thread:
    """Lock a file of SQLite, so that nobody else writes."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")

    def release() -> None:
        connection.execute("ROLLBACK")
        connection.close()

    return _later(seconds, release)


def _later(seconds: float, action: Callable[[], Any]) -> threading.Thread:
    def wait() -> None:
        time.sleep(seconds)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


FAULTS: tuple[tuple[str, str, Away], ...] = (
    ("sqlite", "locked", locked),
    ("postgresql", "unreachable", hidden),
    ("postgresql", "killed and restarted", restarted),
    ("mariadb", "unreachable", hidden),
)


def survives(url: str, name: str, fault: Away, server: Any, seconds: float) -> dict[str, float]:
    """Run a trial whose database goes away between two reports.

    Returns:
        0 or 1 trials `lost`, reports `missing` and points `doubled`, and `blocked`, the seconds that the
        report took which met the fault.
    """
    conditions = Conditions(objective=_OBJECTIVE, sampler="random", pruner="median")
    create_study(url, name, conditions, load_objective(_OBJECTIVE, {}))
    session = open_session(url, name, {})
    session.ask({})
    blocked = 0.0
    for step in range(STEPS):
        back = fault(server, seconds) if step == STEPS // 2 else None
        if back is not None and make_url(url).get_backend_name() != "sqlite":
            session.storage.engine.dispose()  # connections that were open would still be served
        began = time.monotonic()
        session.record(step, float(step), {"twice": 2.0 * step})
        if back is not None:
            blocked = time.monotonic() - began
            back.join()
    session.finish(Outcome("complete", Result(0.5)))
    session.storage.engine.dispose()
    return _kept(url, name) | {"blocked": blocked}


def _kept(url: str, name: str) -> dict[str, float]:
    study = load_study(url, name)
    (trial,) = study.trials
    points = curves_frame(study)
    expected = {(key, step) for key in ("value", "twice") for step in range(STEPS)}
    found = list(zip(points["key"], points["step"], strict=True))
    missing = len(expected - set(found)) + STEPS - len(trial.intermediate_values)
    return {
        "lost": float(trial.state != TrialState.COMPLETE),
        "missing": float(missing),
        "doubled": float(len(found) - len(set(found))),
    }


def claims(seconds: tuple[float, ...]) -> Iterator[Claim]:
    """Take every kind of database away for so many seconds each."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        places: dict[str, tuple[str, Any]] = {
            "sqlite": (f"sqlite:///{folder}/study.db", folder / "study.db")
        }
        for engine, start in (("postgresql", postgresql), ("mariadb", mariadb)):
            try:
                server: Any = stack.enter_context(start())  # type: ignore[operator]
                places[engine] = (server.url, server)
            except Unavailable as reason:
                print(f"without {engine}: {reason}")
        for engine, what, fault in FAULTS:
            for long in seconds if engine in places else ():
                url, server = places[engine]
                found = survives(url, f"{what} {long:g}", fault, server, long)
                wrong = found["lost"] + found["missing"] + found["doubled"]
                yield Claim(
                    f"{engine}, {what} for {long:g} s in a trial: trials lost, reports missing or stored twice",
                    wrong, "things", 0, note=f"the report waited {found['blocked']:.1f} s",
                )  # fmt: skip
