import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from study import provenance
from study.environment import environment_rows
from study.progress import shown
from study.provenance import Clock, process_alive, versions
from study.trial import Outcome


def test_versions_of_what_can_change_a_number() -> None:
    assert versions()["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"chainer", "numpy", "optuna", "mpi4py"} <= set(versions())


def test_code_state_is_a_commit_and_a_hash_of_the_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = {"rev-parse": "a" * 40, "ls-files": "x", "diff": ""}
    monkeypatch.setattr(provenance, "_git", lambda where, verb, *rest: answers[verb])
    assert provenance.code_state.__wrapped__() == {"commit": "a" * 40, "diff": ""}
    answers["diff"] = "- a\n+ b"
    assert len(provenance.code_state.__wrapped__()["diff"]) == 12


@pytest.mark.parametrize("missing", ["rev-parse", "ls-files"])
def test_sources_outside_a_checkout_have_no_commit(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        provenance, "_git", lambda where, verb, *rest: None if verb == missing else "x"
    )
    assert provenance.code_state.__wrapped__() == {}


def test_git_that_is_not_there_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance._git(Path.cwd(), "rev-parse", "HEAD") is None


def test_a_clock_counts_wall_and_processor_time() -> None:
    clock = Clock.start()
    while clock.spent()["cpu_seconds"] < 0.02:
        sum(range(1000))
    spent = clock.spent()
    assert set(spent) == {"wall_seconds", "cpu_seconds"}
    assert spent["wall_seconds"] >= 0.01


def test_which_processes_live() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert process_alive(os.getpid())
    assert process_alive(1)
    assert not process_alive(child.pid)


def test_environment_rows_name_what_a_bug_report_needs() -> None:
    rows = environment_rows()
    assert {"machine", "code", "mpi", "threads", "version"} <= {row["part"] for row in rows}
    assert all(isinstance(row["value"], str) for row in rows)
    assert any(row["what"] == "library" and row["value"] for row in rows)


COMPLETE = Outcome("complete", SimpleNamespace(value=0.5))  # type: ignore[arg-type]
FAILED = Outcome("failed", failures={1: "Traceback\nValueError: no"})


@pytest.mark.parametrize(
    ("outcome", "best", "line"),
    [
        (COMPLETE, 0.75, "trial   3 complete 0.5000 (best 0.7500) 0.0 s"),
        (Outcome("pruned"), None, "trial   3 pruned 0.0 s"),
        (FAILED, None, "trial   3 failed 0.0 s: rank 1: ValueError: no"),
    ],
)
def test_progress_is_a_line_per_trial_on_stderr(
    outcome: Any, best: float | None, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with shown() as progress:
        progress("prepare", {"study": "s"})
        progress("trial", {"number": 3})
        progress("report", {"step": 1, "value": 0.1})
        progress("end", {"number": 3, "outcome": outcome, "best": best})
    out, err = capsys.readouterr()
    assert err.splitlines() == ["joined study s", line]
    assert out == ""


def test_a_terminal_has_its_cursor_back_when_no_trial_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with shown() as progress:
        progress("prepare", {"study": "s"})
    hidden, visible = "\x1b[?25l", "\x1b[?25h"
    assert hidden in terminal.getvalue()
    assert terminal.getvalue().rindex(visible) > terminal.getvalue().rindex(hidden)
