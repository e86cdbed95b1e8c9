"""Progress of a worker on stderr: a line per trial, and a live line on a terminal."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.text import Text

__all__ = ["shown"]


@contextmanager
def shown() -> Iterator[Any]:
    """Give a callback for `study.worker.run_worker` that shows progress on stderr."""
    console = Console(stderr=True)
    status = console.status("")
    started: dict[str, float] = {}

    def live(text: str) -> None:
        if sys.stderr.isatty():
            status.update(Text(text))
            status.start()

    def progress(event: str, facts: Mapping[str, Any]) -> None:
        if event == "prepare":
            click.echo(f"joined study {facts['study']}", err=True)
            live("preparing")
        elif event == "trial":
            started["trial"] = time.monotonic()
            live(f"trial {facts['number']}")
        elif event == "report":
            live(f"step {facts['step']}: {facts['value']}")
        elif event == "end":
            status.stop()
            click.echo(_line(facts, time.monotonic() - started["trial"]), err=True)
        elif event == "budget":
            click.echo(
                f"no further trial: study {facts['study']!r} has cost {facts['spent']:.3g} core-hours "
                f"of {facts['budget']:g}",
                err=True,
            )

    try:
        yield progress
    finally:
        status.stop()  # it hides the cursor


def _line(facts: Mapping[str, Any], seconds: float) -> str:
    outcome = facts["outcome"]
    value = f" {outcome.result.value:.4f}" if outcome.result is not None else ""
    best = "" if facts["best"] is None else f" (best {facts['best']:.4f})"
    reason = f": {outcome.reason}" if outcome.failures else ""
    return f"trial {facts['number']:>3} {outcome.state}{value}{best} {seconds:.1f} s{reason}"
