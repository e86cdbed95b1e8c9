"""The communicator that a trial sees: MPI's, behind the rule that keeps its ranks together (see `study.world`)."""

from collections.abc import Callable
from typing import Any

__all__ = ["GuardedComm"]

_COLLECTIVES = frozenset(
    ("allgather", "Allgather", "Allgatherv", "allreduce", "Allreduce", "alltoall", "Alltoall",
     "Alltoallv", "barrier", "Barrier", "bcast", "Bcast", "gather", "Gather", "Gatherv", "reduce",
     "Reduce", "Reduce_scatter", "scan", "Scan", "scatter", "Scatter", "Scatterv")
)  # fmt: skip
_POINT_TO_POINT = frozenset(
    ("send", "Send", "ssend", "Ssend", "recv", "Recv", "isend", "Isend", "irecv", "Irecv",
     "sendrecv", "Sendrecv")
)  # fmt: skip


class GuardedComm:
    """An mpi4py communicator whose collectives exchange a status word with the whole world first.

    Sub-communicators from `Split` stay guarded by the world they came from, so a failure in one group
    reaches the others: every rank must make the same sequence of calls, whatever its group.

    Args:
        comm: the communicator.
        check: `World.check` of that world.
    """

    def __init__(self, comm: Any, check: Callable[[str], None]) -> None:
        self._comm = comm
        self._check = check

    def __getattr__(self, name: str) -> Any:
        if name in _POINT_TO_POINT:
            raise NotImplementedError(
                f"{name}: a point-to-point message cannot be guarded against a peer that raised; use a collective"
            )
        attribute = getattr(self._comm, name)
        return self._guarded(name, attribute) if name in _COLLECTIVES else attribute

    def _guarded(self, name: str, collective: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._check(name)
            return collective(*args, **kwargs)

        return call

    def Split(self, color: int = 0, key: int = 0) -> "GuardedComm":  # noqa: N802  mpi4py's name
        """Return this rank's group, guarded by the same world."""
        self._check("Split")
        return GuardedComm(self._comm.Split(color, key), self._check)
