"""The ranks that run one trial together, and the rule that keeps them together.

A rank that raises is not enough to stop the others: they already wait in a collective that the raising
rank will never enter. So every collective of a trial, ChainerMN's included, goes through the world's
communicator, which first exchanges one status word. A raising rank enters the next exchange with its
error, and all ranks leave together. The only other way out is the hang timeout, which ends the job.
"""

import math
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, TypeVar, cast
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from study.communicator import GuardedComm
from study.errors import TrialFailed, TrialInterrupted, UsageError

__all__ = ["World"]

T = TypeVar("T")
# Floats that ride along with a status word: sums over 512 channels of two kinds, and a count.
_ROOM = 2 * 512 + 1
_NOTHING = np.empty(0)
# What a rank prints goes another way than its abort, and from another machine it may be slower.
_HEARD_SECONDS = 0.2
# How long a rank waits for others awake: ranks that compute the same are a millisecond apart.
_AWAKE_SECONDS = 5e-3
# Signals so close to each other are one.
_SAME_SECONDS = 1.0
# A rank's traceback, and what it says to the user if that is all there is to say.
_Failure = tuple[str, str | None]


class World:
    """The ranks of a trial.

    Args:
        comm: an mpi4py communicator, or None for the in-process twin: one rank, no MPI, same laws.
        hang_timeout: seconds to wait for the other ranks before the job is aborted; > 0.

    Attributes:
        patient: whether a signal waits for the next iteration, where the trial can be kept (see
            `study.steering`), instead of ending the trial in the next exchange; the same on every rank.
        asked: whether some rank had been asked to stop by a signal at the last exchange; the same on every rank.
        arriving: called on every rank before each exchange, with what the rank is about to do.
        progressed: called on every rank after each exchange: all ranks came to it.
        before_abort: called before this rank ends the job, with the reason.
    """

    def __init__(self, comm: Any = None, hang_timeout: float = 600.0) -> None:
        self._comm = comm
        self.rank: int = 0 if comm is None else comm.rank
        self.size: int = 1 if comm is None else comm.size
        self.hang_timeout = hang_timeout
        self.interrupted = self.asked = self.patient = False
        self._word, self._total = np.zeros((2, 4 + _ROOM))
        self._local: tuple[int, int] | None = (0, 1) if comm is None else None
        self.arriving: Callable[[str], None] = lambda call: None
        self.progressed: Callable[[], None] = lambda: None
        self.before_abort: Callable[[str], None] = lambda reason: None
        self.comm = None if comm is None else GuardedComm(comm, self.check)

    @property
    def local(self) -> tuple[int, int]:
        """This rank among the ranks on its host, and how many those are; the first use is a collective."""
        if self._local is None:
            host = socket.gethostname()
            hosts = self.allgather(host)
            self._local = (hosts[: self.rank].count(host), hosts.count(host))
        return self._local

    def bcast(self, value: T) -> T:
        """Return rank 0's `value` on every rank."""
        if self.comm is None:
            self.check("bcast")
            return value
        shared: T = self.comm.bcast(value)
        return shared

    def lead(self, action: Callable[[], T]) -> T:
        """Return on every rank what `action` returns on rank 0, the only rank that does it.

        Raises:
            UsageError: on every rank, with the same sentence, when `action` raised it.
            TrialFailed: on every rank, when `action` raised anything else.
        """
        value, refusal = None, None
        if self.rank == 0:
            try:
                value = action()
            except UsageError as error:
                refusal = str(error)
            except BaseException as error:
                self.fail(error)
        value, refusal = self.bcast((value, refusal))
        if refusal is not None:
            raise UsageError(refusal)
        return cast(T, value)

    def together(self, action: Callable[[], T]) -> T:
        """Do something on every rank; what one rank raises becomes a failure of all.

        Raises:
            UsageError: on every rank, with the sentence of the first that has one, when `action` raised
                nothing else on any.
            TrialFailed: on every rank, when `action` raised anything else on any.
        """
        try:
            try:
                value = action()
                self.check("together")
            except (TrialFailed, TrialInterrupted):
                raise
            except BaseException as error:
                self.fail(error)
        except TrialFailed as failed:
            raise failed.refusal or failed from None
        return value

    def allgather(self, value: T) -> list[T]:
        """Return every rank's `value`, in rank order, on every rank."""
        if self.comm is None:
            self.check("allgather")
            return [value]
        return cast(list[T], self.comm.allgather(value))

    def sum(self, array: NDArray[Any], call: str = "") -> NDArray[Any]:
        """Return the elementwise sum of `array`, which may be overwritten.

        Few floats ride along with the status word, added up in float64; others take an exchange more.

        Args:
            array: of the same shape and dtype on every rank.
            call: what it is for, see `check`.
        """
        call = call or f"sum of {array.shape}"
        if array.dtype.kind == "f" and array.size <= _ROOM:
            return self._exchange(call, None, array)
        self.check(call)
        if self._comm is None:
            return array
        from mpi4py import MPI

        array = np.ascontiguousarray(array)
        self._comm.Allreduce(MPI.IN_PLACE, array)
        return array

    def settle(self, value: T) -> list[T]:
        """Gather like `allgather`, without a status word.

        Only where every rank is known to come next: right after all of them left a trial together, when
        an exchange would raise the old interrupt again.
        """
        return [value] if self._comm is None else self._comm.allgather(value)

    def check(self, call: str = "check") -> None:
        """Exchange one status word with every rank; the cheapest way to stop together.

        Args:
            call: what this rank is about to do. Ranks that name different calls have diverged.

        Raises:
            TrialFailed: some rank raised, or the ranks are about to do different things.
            TrialInterrupted: some rank was asked to stop by a signal.
        """
        self._exchange(call, None)

    def fail(self, error: BaseException) -> NoReturn:
        """Tell every rank that this one raised `error`, and leave with all of them.

        Raises:
            TrialFailed: always, with the traceback of each rank that failed.
        """
        text = "".join(traceback.format_exception(error))
        failure = (text, str(error) if isinstance(error, UsageError) else None)
        self._exchange("fail", failure)
        raise TrialFailed({self.rank: text})  # not reached: the exchange raises

    def _exchange(
        self, call: str, failure: _Failure | None, array: NDArray[Any] = _NOTHING
    ) -> NDArray[Any]:
        self.arriving(call)
        # The message has one length, whatever rides along: who raised comes with nothing.
        tag = crc32(call.encode()) >> 12
        self._word[:4] = failure is not None, self.interrupted, tag, tag**2
        self._word[4 : 4 + array.size] = array.ravel()
        total = self._word if self._comm is None else self._add_up(call)
        self.progressed()
        failed, interrupted, tags, squares = map(int, total[:4])
        self.asked = bool(interrupted)
        # A signal may have come since this rank wrote its word: it is a word of the next exchange.
        self.interrupted = self.interrupted or self.asked
        # By Cauchy and Schwarz only equal tags make them equal; 20 bits stay exact on 8,192 ranks.
        diverged = self.size * squares != tags**2
        # Who was asked to stop may be anywhere: that is no divergence.
        if failed or (diverged and not self.asked):
            self._leave(failure if failed else (f"ranks diverged: this one is at {call!r}", None))
        if self.asked and (diverged or not self.patient):
            raise TrialInterrupted(f"stopped by a signal before {call!r}")
        return total[4 : 4 + array.size].reshape(array.shape).astype(array.dtype)

    def _leave(self, failure: _Failure | None) -> NoReturn:
        gathered = [failure] if self._comm is None else self._comm.allgather(failure)
        failed = {rank: found for rank, found in enumerate(gathered) if found is not None}
        refusals = {rank: refusal for rank, (_, refusal) in failed.items() if refusal is not None}
        raise TrialFailed({rank: text for rank, (text, _) in failed.items()}, refusals)

    def _add_up(self, call: str) -> NDArray[Any]:
        request = self._comm.Iallreduce(self._word, self._total)
        # MPI's own wait spins at 100 %. This one gives way to a rank that has no core of its own, then sleeps.
        started = time.monotonic()
        pause = 0.0
        while not request.Test():
            waited = time.monotonic() - started
            if waited > self.hang_timeout:
                self.abort(
                    f"rank {self.rank} waited {waited:.0f} s before {call!r} for ranks that never came"
                )
            if waited < _AWAKE_SECONDS:
                os.sched_yield()
            else:
                pause = min(pause + 2e-5, 1e-3)
                time.sleep(pause)
        return self._total

    def abort(self, reason: str) -> NoReturn:
        """End the whole job at once: the last resort, for ranks that cannot speak any more."""
        print(f"jigsaw: aborting the job: {reason}", file=sys.stderr, flush=True)
        try:
            self.before_abort(reason)
        finally:
            if self._comm is not None:
                time.sleep(_HEARD_SECONDS)
                self._comm.Abort(1)
            os._exit(1)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Turn Ctrl-C and SIGTERM into a word of the next exchange; a second one, a moment later, ends the job."""
        first = -math.inf

        def asked(number: int, frame: FrameType | None) -> None:
            nonlocal first
            if not self.interrupted:
                first = time.monotonic()
            # Launchers and schedulers pass the same signal on by two ways.
            elif time.monotonic() - first > _SAME_SECONDS:
                self.abort(f"second {signal.Signals(number).name}")
            self.interrupted = True

        previous = {s: signal.signal(s, asked) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
