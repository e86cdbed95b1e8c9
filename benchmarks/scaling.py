"""Two real ranks beside one, and what a model of the network says about more of them.

Cost of an Allreduce of n bytes on P ranks: alpha is the latency of a message, 1/beta the time per byte,

    short messages (recursive doubling)   log2(P) (alpha + n / beta)
    long messages (ring)                  2 (P - 1) alpha + 2 (P - 1) / P n / beta

Source: Thakur, Rabenseifner, Gropp 2005, "Optimization of Collective Communication Operations in MPICH".
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Link", "Traffic", "measure"]

_SHORT = 16384


@dataclass(frozen=True)
class Link:
    """What joins the ranks: latency in seconds, bandwidth in bytes per second."""

    alpha: float
    beta: float

    def allreduce(self, ranks: int, size: float) -> float:
        """Return seconds of one Allreduce of `size` bytes."""
        rounds = math.log2(ranks)
        if size <= _SHORT:
            return rounds * (self.alpha + size / self.beta)
        return 2 * (ranks - 1) * self.alpha + 2 * (ranks - 1) / ranks * size / self.beta


@dataclass(frozen=True)
class Traffic:
    """What one step sends: bytes of each collective, status words included."""

    sizes: tuple[int, ...]

    def seconds(self, link: Link, ranks: int, share: float = 1.0) -> float:
        """Return seconds per step; `share` scales the long messages (0.5: half precision)."""
        return sum(link.allreduce(ranks, n * (share if n > _SHORT else 1)) for n in self.sizes)

    def short(self) -> "Traffic":
        """Return what cannot overlap with computing: the short messages, in the middle of the passes."""
        return Traffic(tuple(n for n in self.sizes if n <= _SHORT))


class _Counted:
    """A communicator that notes how many bytes go through each collective."""

    def __init__(self, comm: Any, sizes: list[int]) -> None:
        self._comm, self._sizes = comm, sizes

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._comm, name)
        if name not in ("Allreduce", "Iallreduce", "Allgather"):
            return found

        def call(*buffers: Any, **options: Any) -> Any:
            self._sizes.append(max(b.nbytes for b in buffers if isinstance(b, np.ndarray)))
            return found(*buffers, **options)

        return call

    def Split(self, *where: Any) -> "_Counted":  # noqa: N802  mpi4py's name
        return _Counted(self._comm.Split(*where), self._sizes)


def measure(provider: str, norm: str, rounds: int, batch: int) -> dict[str, Any]:
    """Run on two ranks: one alone, both apart, both together, in turn, and bare Allreduces; on rank 0 the seconds by round.

    Apart, each does what one does alone, at the same time, and nothing is exchanged: what two cores of one
    machine take from each other, which no communicator gives back.
    """
    from mpi4py import MPI

    from benchmarks.step import ours
    from study.world import World

    comm, sizes = MPI.COMM_WORLD, []
    alone = ours(provider, norm=norm, batch=batch)
    world = World(_Counted(comm, sizes))
    both = ours(provider, norm=norm, batch=batch * comm.size, world=world)
    one: list[float] = []
    apart: list[float] = []
    two: list[float] = []
    for warm in range(rounds + 2):
        kept = warm >= 2
        if comm.rank == 0:
            one += [_seconds(alone)] * kept
        _meet(comm)
        apart += [_seconds(alone)] * kept
        _meet(comm)
        sizes.clear()
        two += [_seconds(both)] * kept
        _meet(comm)
    return {"one": one, "apart": apart, "two": two, "sizes": list(sizes), "bare": _bare(comm)}


def _seconds(steps: Iterator[float]) -> float:
    started = time.perf_counter()
    next(steps)
    return time.perf_counter() - started


def _meet(comm: Any) -> None:
    """Wait without spinning, so that a rank that waits takes nothing from one that is measured."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(1e-3)


def _bare(comm: Any) -> list[tuple[int, float]]:
    """Return (bytes, seconds) of Allreduces of many sizes."""
    found = []
    for size in (8, 64, 512, 4096, 65536, 2**18, 2**20, 2**22):
        buffer = np.ones(size // 4, np.float32)
        found.append((size, _typical(lambda b=buffer: comm.Allreduce(MPI_IN_PLACE(), b))))
    return found


def MPI_IN_PLACE() -> Any:  # noqa: N802  MPI's name
    """Return MPI's marker, imported late: the parent process runs no MPI."""
    from mpi4py import MPI

    return MPI.IN_PLACE


def _typical(call: Callable[[], Any], times: int = 200) -> float:
    spent = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


if __name__ == "__main__":
    answer = measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    from mpi4py import MPI

    if MPI.COMM_WORLD.rank == 0:
        print(json.dumps(answer))
