"""Faults of one rank under ChainerMNStudy, which Optuna retired: what one MPI job for all trials leaves behind.

Runs the last optuna-integration with it and its Optuna, fetched for the occasion, on this environment's Chainer and
MPI. Each fault has a job of two ranks, SQLite, and three trials to run; rank 1 fails in the first of them.
"""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.claims import Claim
from study.errors import JigsawError
from study.launchers import find_mpiexec

__all__ = ["FAULTS", "PEERS", "claims"]

PEERS = ("optuna==3.6.1", "optuna-integration==3.6.0")
FAULTS = ("raise", "kill", "stop")
TRIALS, PATIENCE = 3, 30.0


def claims() -> Iterator[Claim]:
    """Count the jobs that do not end, and the trials that stay running."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        _fetch(folder / "peers")
        if not _ends(folder, "none") or _running(folder / "none.db"):
            raise JigsawError("a job of ChainerMNStudy without a fault did not end as it should")
        ended = {fault: _ends(folder, fault) for fault in FAULTS}
        running = {fault: _running(folder / f"{fault}.db") for fault in FAULTS}
    jobs = f"{len(FAULTS)} faults of rank 1: {', '.join(FAULTS)}"
    yield Claim(
        f"jobs of ChainerMNStudy that have not ended after {PATIENCE:g} s", sum(not e for e in ended.values()),
        "jobs", note=f"{jobs}; not ended: {_which(ended, wanted=False)}",
    )  # fmt: skip
    yield Claim(
        "trials of ChainerMNStudy that stay running", sum(running.values()), "trials",
        note=", ".join(f"{fault}: {count}" for fault, count in running.items()),
    )  # fmt: skip


def _fetch(folder: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(folder),
    ]
    done = subprocess.run([*words, *PEERS], capture_output=True, text=True, check=False)
    if done.returncode:
        raise JigsawError(f"{', '.join(PEERS)} cannot be fetched: {done.stderr.strip()[-200:]}")


def _ends(folder: Path, fault: str) -> bool:
    job = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("retired_job.py"))]
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "peers"), root])}
    with subprocess.Popen(
        [find_mpiexec(), "-n", "2", *job, f"sqlite:///{folder / fault}.db", fault, str(TRIALS)],
        env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return False
    return True


def _running(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute("SELECT COUNT(*) FROM trials WHERE state = 'RUNNING'").fetchone()
    finally:
        connection.close()
    return int(rows[0])


def _which(ended: dict[str, bool], *, wanted: bool) -> str:
    return ", ".join(fault for fault, found in ended.items() if found == wanted) or "none"
