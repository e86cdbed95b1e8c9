"""Run a script under mpiexec, with a limit that ends the whole job, not only its launcher."""

import os
import signal
import subprocess
import sys
from pathlib import Path

__all__ = ["mpiexec", "run_job"]


def mpiexec() -> str:
    """The launcher that was installed beside the interpreter."""
    return str(Path(sys.executable).with_name("mpiexec"))


def run_job(ranks: int, script: Path, *arguments: object, limit: float = 60.0) -> str:
    """Run `script` on so many ranks and return what it printed.

    Raises:
        AssertionError: it failed, or ran longer than `limit` seconds.
    """
    command = [mpiexec(), "-n", str(ranks), sys.executable, str(script), *map(str, arguments)]
    root = Path(__file__).resolve().parents[2]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    job = subprocess.Popen(
        command, cwd=root, env=os.environ | threads | {"PYTHONPATH": str(root)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        printed, _ = job.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        printed, _ = job.communicate()
        raise AssertionError(f"ran longer than {limit} s:\n{printed}") from None
    if job.returncode:
        raise AssertionError(f"exit {job.returncode}:\n{printed}")
    return printed
