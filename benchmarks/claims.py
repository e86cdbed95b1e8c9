"""What a benchmark found, in the one form all of them are written in."""

import csv
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from study.provenance import code_state, machine, registered
from study.tables import show

__all__ = ["RESULTS", "Claim", "command", "processor", "write"]

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Claim:
    """One measured number beside what was hoped for and what others do.

    Attributes:
        claim: what was measured, in words.
        value: the number.
        unit: of value, goal and baseline.
        goal: the number to reach; None for what is told without a goal.
        better: whether smaller or larger values reach the goal.
        baseline: what it is compared with, in words.
        baseline_value: its number, of the same run.
        note: what a reader must know to believe it.
    """

    claim: str
    value: float
    unit: str
    goal: float | None = None
    better: Literal["smaller", "larger"] = "smaller"
    baseline: str = ""
    baseline_value: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        return bool(
            self.value <= self.goal if self.better == "smaller" else self.value >= self.goal
        )


# What a benchmark may be told in its environment.
_TOLD = (
    "QUICK",
    "DATASET",
    "IMAGES",
    "SECONDS",
    "RELEASE",
    "BATCH",
    "RANKS",
    "JOBS",
    "JIGSAW_DEVICE",
)
_COLUMNS = ("claim", "value", "unit", "goal", "met", "baseline", "baseline_value", "note")


def write(
    what: str, claims: Sequence[Claim], made_by: Mapping[str, object], target: str = ""
) -> None:
    """Print the claims and write `results/<what>.csv` and `results/<what>.md`.

    Args:
        what: the benchmark's name.
        claims: in the order they are shown.
        made_by: seeds, rounds, threads: what the numbers depend on beside the machine.
        target: what `make` was asked for; empty: `bench-<what>`.
    """
    import pandas as pd

    bench = what.removesuffix("_quick").replace("_", "-")
    head = _head(target or f"bench-{bench}", made_by)
    rows = [_row(claim) for claim in claims]
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{what}.csv").open("w", newline="") as file:
        file.writelines(f"# {line}\n" for line in head)
        writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (RESULTS / f"{what}.md").write_text(_markdown(what, head, rows))
    show(pd.DataFrame(rows, columns=list(_COLUMNS)), "table", what)


def _row(claim: Claim) -> dict[str, str]:
    values = {f.name: getattr(claim, f.name) for f in fields(claim)} | {"met": claim.met}
    return {name: _text(values[name]) for name in _COLUMNS}


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _head(target: str, made_by: Mapping[str, object]) -> list[str]:
    here = machine()
    code = code_state()
    changed = " with changes" if code.get("diff") else ""
    facts = {
        "command": command(target),
        "machine": f"{processor()}, {here['cores']} cores, {here['system']}",
        "python": platform.python_version(),
        "commit": f"{code.get('commit', 'unknown')}{changed}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **_device_facts(),
        "load at the end": f"{os.getloadavg()[0]:.1f} processes on these cores",
        **made_by,
    }
    return [f"{name}: {value}" for name, value in facts.items()]


def _device_facts() -> dict[str, str]:
    """Return on what networks are computed, where that is not the processor."""
    known = registered().get("device", {}).get("arrays", "cpu")
    return {} if known == "cpu" else {"device": known}


def command(target: str) -> str:
    """Return what to type for a target of make, with what this process was told in its environment."""
    names = [name for name in _TOLD if os.environ.get(name, "cpu") not in ("", "cpu")]
    return " ".join([*(f"{name}={os.environ[name]}" for name in names), "make", target])


def processor() -> str:
    try:
        done = subprocess.run(["lscpu"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return platform.processor() or "unknown processor"
    lines = (line.partition(":") for line in done.stdout.splitlines())
    return next((value.strip() for name, _, value in lines if name == "Model name"), "unknown")


def _markdown(what: str, head: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    lines = [f"# {what}", "", *(f"- {line}" for line in head), ""]
    lines += ["| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS)]
    lines += [
        "| " + " | ".join(row[c].replace("|", "\\|") for c in _COLUMNS) + " |" for row in rows
    ]
    return "\n".join(lines) + "\n"
