"""Beats of ranks, and when a job that has them stands still."""

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.beats import FOLDER, Beat, Watch, beat_writer, read_beats
from study.mpi import mpi_world
from study.world import World


def beats(*counts: int | None) -> list[Beat | None]:
    return [None if count is None else Beat("n1", 7, count, "bcast") for count in counts]


def test_each_exchange_is_a_beat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    world = mpi_world()
    assert read_beats(tmp_path, 2) == [Beat(socket.gethostname(), os.getpid(), 0, "start"), None]
    for _ in range(3):
        world.check("end of trial")
    (last,) = read_beats(tmp_path, 1)
    assert last is not None
    assert (last.count, last.call) == (3, "end of trial")
    mpi_world().check("another world of the same process counts on")
    assert read_beats(tmp_path, 1)[0].count == 4  # type: ignore[union-attr]


def test_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    assert beat_writer(0) is None


@pytest.mark.parametrize("content", ["", "n1", "n1 x 3 bcast", "n1 3 4"])
def test_what_is_no_beat_is_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "0").write_text(content)
    assert read_beats(tmp_path, 1) == [None]


def test_progress_is_told_after_every_exchange() -> None:
    world, heard = World(), []
    world.arriving = heard.append
    world.progressed = lambda: heard.append("all came")
    world.check("a")
    world.bcast(1)
    assert heard == ["a", "all came", "bcast", "all came"]


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ((4, 5), "rank 0 made no progress for 5 s (after exchange 4, 'bcast')"),
        ((5, 4, 4), "ranks 1, 2 made no progress for 5 s (after exchange 4, 'bcast')"),
        ((3, None), "rank 1 made no progress for 5 s (never started)"),
        ((2, 2), "ranks 0, 1 made no progress for 5 s (after exchange 2, 'bcast')"),
    ],
)
def test_the_ranks_that_are_behind_are_named(counts: tuple[int | None, ...], reason: str) -> None:
    watch = Watch(5, 100)
    assert watch.stalled(beats(*counts), 101) is None
    assert watch.stalled(beats(*counts), 105.9) is None
    assert watch.stalled(beats(*counts), 106) == reason


def test_a_rank_that_runs_ahead_is_no_progress() -> None:
    watch = Watch(5, 0)
    for second in range(10):
        stalled = watch.stalled(beats(3, 3 + second), second)
    assert stalled == "rank 0 made no progress for 5 s (after exchange 3, 'bcast')"


@given(st.lists(st.tuples(st.floats(0.1, 4.9), st.integers(1, 9)), max_size=30))
def test_ranks_that_progress_in_time_never_stall(steps: list[tuple[float, int]]) -> None:
    watch, now, count = Watch(5, 0), 0.0, 0
    for seconds, more in steps:
        now, count = now + seconds, count + more
        assert watch.stalled(beats(count, count + 1), now) is None
