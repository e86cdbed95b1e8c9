"""How a job ended, in words."""

import re
import signal
from collections.abc import Sequence
from contextlib import suppress

from study.beats import Beat

__all__ = ["explain_exit", "last_line"]

# What Hydra and Open MPI say of the first process that ended badly.
_ENDED = (
    re.compile(r"PID (?P<pid>\d+) RUNNING AT .*?EXIT CODE: (?P<code>\d+)", re.S),
    re.compile(r"rank (?P<rank>\d+) with PID .*? exited on\s+signal (?P<code>\d+)", re.S),
    re.compile(r"Process name: \[.*,(?P<rank>\d+)\]\s+Exit code:\s+(?P<code>\d+)"),
)


def explain_exit(code: int | None, log: str, beats: Sequence[Beat | None] = ()) -> str:
    """Say how a job ended that did not say how its trial did.

    Args:
        code: the job's exit code; negative for a signal.
        log: the end of its output, where MPI's launchers name the process that ended badly.
        beats: the last beat of each rank, which name its process.
    """
    for pattern in _ENDED:
        if found := pattern.search(log):
            return f"{_who(found.groupdict(), beats)} ended with {_code(int(found['code']))}"
    said = last_line(log)
    return f"its job ended before it did, with {_code(code or 0)}" + (f": {said}" if said else "")


def _who(found: dict[str, str], beats: Sequence[Beat | None]) -> str:
    if "rank" in found:
        return f"rank {found['rank']}"
    pids = [str(beat.pid) if beat is not None else "" for beat in beats]
    return f"rank {pids.index(found['pid'])}" if found["pid"] in pids else f"process {found['pid']}"


def _code(number: int) -> str:
    named = -number if number < 0 else number - 128 if number > 128 else number
    # Hydra shows a signal as a plain number, and nothing of ours ends with these.
    killing = number < 0 or number > 128 or number in (signal.SIGKILL, signal.SIGSEGV)
    with suppress(ValueError):
        if killing:
            name = signal.Signals(named).name
            memory = ", as for a lack of memory" if name == "SIGKILL" else ""
            return f"exit code {number} ({name}{memory})"
    return f"exit code {number}"


def last_line(log: str) -> str:
    """Return the last line that says something; nothing when there is none."""
    lines = [line.strip() for line in log.splitlines() if line.strip(" =-\n")]
    return lines[-1] if lines else ""
