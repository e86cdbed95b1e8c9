"""Count the collectives that each training step of the benchmark's network takes on the ranks of this job.

    mpiexec -n 2 python messages_job.py

Rank 0 prints one JSON object per step: how often each collective was called.
"""

import json
from collections import Counter
from typing import Any

from mpi4py import MPI

from benchmarks.step import ours
from study.world import World

STEPS = 3
COLLECTIVES = (
    "allgather", "Allgather", "Allgatherv", "allreduce", "Allreduce", "alltoall", "Alltoall", "Alltoallv",
    "barrier", "Barrier", "bcast", "Bcast", "gather", "Gather", "Gatherv", "Iallreduce", "reduce", "Reduce",
    "scatter", "Scatter", "Scatterv",
)  # fmt: skip


class Counting:
    """A communicator that counts its collectives, and those of the groups that it is split into."""

    def __init__(self, comm: Any, calls: Counter[str]) -> None:
        self._comm, self._calls = comm, calls

    def __getattr__(self, name: str) -> Any:
        if name in COLLECTIVES:
            self._calls[name] += 1
        return getattr(self._comm, name)

    def Split(self, *args: Any) -> "Counting":  # noqa: N802  mpi4py's name
        return Counting(self._comm.Split(*args), self._calls)


def main() -> None:
    calls: Counter[str] = Counter()
    world = World(Counting(MPI.COMM_WORLD, calls))
    steps = ours("numpy", world=world, batch=4, count=8)
    next(steps)  # the first finds out who is on which host
    for _ in range(STEPS):
        calls.clear()
        next(steps)
        if world.rank == 0:
            print(json.dumps(calls), flush=True)


if __name__ == "__main__":
    main()
