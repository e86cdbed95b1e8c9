"""How a command becomes a rank of a job."""

from pathlib import Path

from tests.mpi_tests.jobs import finish, start

COUNT = """
import os
from study.launch import share_cores
from study.world import mpi_world
import numpy, threadpoolctl
share_cores(mpi_world())
pools = {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
# One write: ranks share the pipe.
os.write(1, f"{pools} {os.environ['OMP_NUM_THREADS']}\\n".encode())
"""


def test_ranks_share_the_cores_of_their_host(tmp_path: Path) -> None:
    unset = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"))
    done = finish(start(4, "-c", COUNT, cwd=tmp_path, **unset), 60)
    assert done.out.splitlines() == ["{1} 1"] * 4, done.err


def test_what_the_user_says_about_threads_holds(tmp_path: Path) -> None:
    done = finish(
        start(2, "-c", COUNT, cwd=tmp_path, OMP_NUM_THREADS="2", OPENBLAS_NUM_THREADS="2"), 60
    )
    assert done.out.splitlines() == ["{2} 2"] * 2, done.err
