"""How a command becomes a rank of a job."""

from pathlib import Path

import pytest

from tests.mpi_tests.jobs import finish, mpi, start

COUNT = """
import os
from study.launch import share_cores
from study.mpi import mpi_world
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


ENDS = """
import sys
import click
from study.errors import JigsawError, UsageError
from study.launch import launch
from study.mpi import mpi_world

@click.command()
@click.argument("rank", type=int)
@click.argument("how")
def verb(rank, how):
    world = mpi_world(20)
    if how != "after":
        world.allgather(0)
    if world.rank == rank and how in ("usage", "after"):
        raise UsageError("x is 3; allowed: 1, 2")
    if world.rank == rank and how == "click":
        raise click.BadParameter("file does not exist here")
    if world.rank == rank and how == "failure":
        raise JigsawError("it broke")
    if world.rank == rank and how == "stop":
        raise KeyboardInterrupt
    if how != "after":
        world.allgather(1)

launch(sys.argv[1:], verb)
"""


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("usage", 2, "jigsaw: x is 3; allowed: 1, 2"),
        ("after", 2, "jigsaw: x is 3; allowed: 1, 2"),
        ("click", 2, "jigsaw: Invalid value: file does not exist here"),
        ("failure", 1, "jigsaw: rank {rank}: study.errors.JigsawError: it broke"),
        ("stop", 130, "jigsaw: stopped by a signal before 'allgather'"),
    ],
)
def test_what_ends_the_command_on_one_rank_ends_it_on_all(
    rank: int, how: str, code: int, said: str, tmp_path: Path
) -> None:
    done = mpi(2, "-c", ENDS, str(rank), how, cwd=tmp_path, limit=30)
    first, *rest = done.err.strip().splitlines()
    assert (done.code, rest) == (code, [])
    if how == "stop":
        first = first.replace("'end of the command'", "'allgather'")
    assert first == said.format(rank=rank)
