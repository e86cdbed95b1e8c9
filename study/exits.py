"""How a job ended, in words."""

import re
import signal
from collections.abc import Sequence
from contextlib import suppress

from study.beats import Beat

__all__ = ["blameless", "explain_exit", "last_line"]

# What Hydra and Open MPI say of the first process that ended badly.
_ENDED = (
    re.compile(r"PID (?P<pid>\d+) RUNNING AT .*?EXIT CODE: (?P<code>\d+)", re.S),
    re.compile(r"rank (?P<rank>\d+) with PID .*? exited on\s+signal (?P<code>\d+)", re.S),
    re.compile(r"Process name: \[.*,(?P<rank>\d+)\]\s+Exit code:\s+(?P<code>\d+)"),
)
# What `ssh` says last, before Hydra gives up.
_UNREACHABLE = re.compile(r"^(?P<said>.+)\n\[mpiexec@\S+\] .*Launch proxy failed", re.M)
# What a rank says that ends its job, and what Hydra makes of a machine where it could start nothing.
_ABORTED = re.compile(r"^jigsaw: aborting the job: (?P<why>.+)$", re.M)
_VANISHED = re.compile(r"^\[mpiexec@\S+\] control_cb .*assert \(!closed\) failed", re.M)
# What `srun` says of the first ranks that ended badly: those that ended because of them come later.
_TASK = re.compile(
    r"error: \S+: tasks? (?P<ranks>[\d,-]+): (?:Exited with exit code (?P<code>\d+)|(?P<signal>.+))"
)
_BY_SLURM = "Slurm ended its job: "
_PREEMPTED, _NODE, _WITHDRAWN = "it was pre-empted", "its node failed", "it was cancelled"
# What Slurm says when it was Slurm that ended a job.
_SLURM = {
    r"exceeded memory limit|Out Of Memory|oom.kill|JobState=OUT_OF_MEMORY": "it needed more memory than Slurm gave it",
    r"DUE TO TIME LIMIT|JobState=TIMEOUT": "it reached its time limit",
    r"DUE TO PREEMPTION|JobState=PREEMPTED": _PREEMPTED,
    r"DUE TO NODE FAILURE|JobState=NODE_FAIL|Node failure": _NODE,
}
_CANCELLED = r"CANCELLED AT|JobState=CANCELLED|has been revoked|Job has been cancelled"


def explain_exit(code: int | None, log: str, beats: Sequence[Beat | None] = ()) -> str:
    """Say how a job ended that did not say how its trial did.

    Args:
        code: the job's exit code; negative for a signal.
        log: the end of its output, where MPI's launchers name the process that ended badly.
        beats: the last beat of each rank, which name its process.
    """
    if found := _UNREACHABLE.search(log):
        return f"a machine cannot be reached: {found['said'].strip()}"
    for pattern in _ENDED:
        if found := pattern.search(log):
            return f"{_who(found.groupdict(), beats)} ended with {_code(int(found['code']))}"
    if by_slurm := _ended_by_slurm(log):
        return by_slurm
    said = _said(log)
    return f"its job ended before it did, with {_code(code or 0)}" + (f": {said}" if said else "")


def blameless(reason: str) -> bool:
    """Tell whether a job ended for a reason that says nothing about its trial: others wanted its place, or its node failed.

    Args:
        reason: as `explain_exit` says it.
    """
    return reason in {f"{_BY_SLURM}{why}" for why in (_PREEMPTED, _NODE, _WITHDRAWN)}


def _ended_by_slurm(log: str) -> str:
    for pattern, reason in _SLURM.items():
        if re.search(pattern, log):
            return f"{_BY_SLURM}{reason}"
    cancelled, task = re.search(_CANCELLED, log), _TASK.search(log)
    # A rank that ended badly has its job cancelled; ranks of a cancelled job end badly.
    if cancelled and (task is None or cancelled.start() < task.start()):
        return f"{_BY_SLURM}{_WITHDRAWN}"
    return "" if task is None else _told_by_srun(task)


def _told_by_srun(task: re.Match[str]) -> str:
    who = f"rank{'' if task['ranks'].isdigit() else 's'} {task['ranks']}"
    if task["code"] is not None:
        return f"{who} ended with {_code(int(task['code']))}"
    names = {signal.strsignal(number): number for number in signal.valid_signals()}
    number = names.get(task["signal"].removesuffix(" (core dumped)").strip())
    return (
        f"{who} ended: {task['signal']}" if number is None else f"{who} ended with {_code(-number)}"
    )


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


def _said(log: str) -> str:
    if aborted := _ABORTED.search(log):
        return aborted["why"]
    if _VANISHED.search(log):
        return "MPI's launcher ended on a machine, which may be gone, or not see the folder of the launch"
    return last_line(log)


def last_line(log: str) -> str:
    """Return the last line that says something; nothing when there is none."""
    lines = [line.strip() for line in log.splitlines() if line.strip(" =-\n")]
    return lines[-1] if lines else ""
