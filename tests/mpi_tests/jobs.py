"""Run a real MPI job under a hard limit, and see that it leaves nothing behind."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MPIEXEC = Path(sys.executable).with_name("mpiexec")


@dataclass(frozen=True)
class Done:
    """How a job ended."""

    code: int
    out: str
    err: str


def environment(**extra: str | None) -> dict[str, str]:
    """This environment, less what would make a process believe that it is a rank already."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI", "HYDRA"))}
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    whole = kept | threads | {"PYTHONPATH": str(ROOT)} | extra
    return {name: value for name, value in whole.items() if value is not None}


def start(
    ranks: int, *arguments: str, cwd: Path, launcher: Path | None = None, **extra: str | None
) -> "subprocess.Popen[str]":
    """Start `python arguments...` on some ranks; `launcher` is the bin folder of another environment."""
    here = (MPIEXEC, Path(sys.executable))
    mpiexec, python = here if launcher is None else (launcher / "mpiexec", launcher / "python")
    return subprocess.Popen(
        [str(mpiexec), "-n", str(ranks), str(python), *arguments],
        cwd=cwd, env=environment(**extra), text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(job: "subprocess.Popen[str]", limit: float) -> Done:
    """Wait for a job; one that outlives its limit is killed whole, and fails the test."""
    try:
        out, err = job.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        out, err = job.communicate()
        raise AssertionError(f"the job ran longer than {limit:g} s:\n{out}\n{err}") from None
    return Done(job.returncode, out, err)


def mpi(ranks: int, *arguments: str, cwd: Path, limit: float = 60, **extra: str) -> Done:
    """Run a job to its end."""
    return finish(start(ranks, *arguments, cwd=cwd, **extra), limit)


def run_job(ranks: int, script: Path, *arguments: object, limit: float = 60.0) -> str:
    """Run a script of ours on some ranks and return what it printed; its failure is the test's."""
    done = mpi(ranks, str(script), *map(str, arguments), cwd=ROOT, limit=limit)
    assert done.code == 0, f"exit {done.code}:\n{done.out}{done.err}"
    return done.out + done.err


def processes_naming(text: str) -> list[str]:
    """Command lines of live processes that have `text` among their arguments or in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            line, environment = ((entry / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        if text.encode() in line + environment:
            found.append(line.replace(b"\0", b" ").decode(errors="replace"))
    return found
