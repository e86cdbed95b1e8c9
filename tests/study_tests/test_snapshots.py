"""Snapshots on the disk: whole or absent, the newest that fits, and no more of them than are kept."""

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from study.errors import DataError, TrialInterrupted
from study.snapshots import Keeper, Keeping, State, discard, gather, newest, read_snapshot
from study.steering import Command, Steering
from study.world import World
from tests.study_tests.test_steering import SETTABLE, Asked

WANTED = {"spec": "abc", "ranks": 1, "data": {"sha": "1"}}


def state(value: float = 1.0) -> State:
    return State({"a/b": np.full(3, value), "c": np.arange(4, dtype=np.int8)}, {"loss": value})


def keeper(place: Path, *notes: Any, **keeping: Any) -> Keeper:
    said = notes[0].append if notes else None
    return Keeper(place, Keeping(str(place), **keeping), WANTED, said)


def write(place: Path, iteration: int, **keeping: Any) -> str:
    facts, arrays = gather(World(), state(iteration))
    made = {"iteration": iteration, "facts": facts, "reports": []}
    done, said = keeper(place, **keeping).write(made, arrays)
    assert done
    return said


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_what_is_handed_over_comes_back(tmp_path: Path) -> None:
    random.seed(1)
    np.random.seed(1)
    np.random.normal()  # the second of a pair is remembered
    said = write(tmp_path, 7)
    expected = random.random(), np.random.normal(), np.random.normal()
    (path,) = tmp_path.iterdir()
    assert said == f"{path.stat().st_size:,} bytes in {path}"
    found, refused = newest([tmp_path], WANTED)
    assert found is not None
    assert (found.iteration, refused) == (7, [])
    back = found.state(0)
    assert (random.random(), np.random.normal(), np.random.normal()) == expected
    assert back.facts == {"loss": 7}
    for name, array in state(7).arrays.items():
        assert back.arrays[name].dtype == array.dtype
        assert back.arrays[name].tobytes() == array.tobytes()


def test_no_more_are_kept_than_were_asked_for(tmp_path: Path) -> None:
    for iteration in (5, 100, 20):
        write(tmp_path, iteration, keep=2)
    assert names(tmp_path) == ["000000020.npz", "000000100.npz"]


DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "a flipped bit": lambda content: content[:400] + bytes([content[400] ^ 1]) + content[401:],
    "something else": lambda content: b"hello",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_one_before_serves_when_the_newest_is_damaged(damage: str, tmp_path: Path) -> None:
    for iteration in (5, 6):
        write(tmp_path, iteration)
    path = tmp_path / "000000006.npz"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    found, (refused,) = newest([tmp_path / "absent", tmp_path], WANTED)
    assert found is not None
    assert found.iteration == 5
    assert refused.startswith(f"snapshot '{path}' cannot be read as npz of plain arrays")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"ranks": 2}, "was made with ranks 1, and this is 2"),
        ({"spec": "x"}, 'was made with spec "abc", and this is "x"'),
        ({"data": {"sha": "2"}}, 'was made with data {"sha": "1"}, and this is {"sha": "2"}'),
        ({"seed": 3}, "was made with seed null, and this is 3"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, wanted: Any, said: str) -> None:
    write(tmp_path, 5)
    found, refused = newest([tmp_path], {**WANTED, **wanted})
    assert found is None
    assert refused == [f"snapshot '{tmp_path}/000000005.npz' {said}"]


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "1.npz", snapshot=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="Object arrays cannot be loaded"):
        read_snapshot(tmp_path / "1.npz")
    np.savez(tmp_path / "1.npz", other=np.zeros(1))
    with pytest.raises(DataError, match="does not say how it was made"):
        read_snapshot(tmp_path / "1.npz")


def test_ranks_store_what_differs(tmp_path: Path) -> None:
    class Two(World):
        """What rank 0 of two hears."""

        def allgather(self, value: Any) -> Any:
            facts, _ = value
            return [value, ({**facts, "loop": {"loss": 5.0}}, {"c": np.ones(4, np.int8)})]

    facts, arrays = gather(Two(), state())
    assert sorted(arrays) == ["0/a/b", "0/c", "0/random", "1/c"]
    keeper(tmp_path).write({"iteration": 1, "facts": facts, "reports": []}, arrays)
    found, _ = newest([tmp_path], WANTED)
    assert found is not None
    assert found.state(1).arrays["c"].tolist() == [1, 1, 1, 1]
    assert found.state(1).facts == {"loss": 5.0}
    assert found.state(0).facts == {"loss": 1.0}
    assert found.state(1).arrays["a/b"].tolist() == [1, 1, 1]


# A limit on the size of files stands for a full disk.
FULL = """
import resource, signal, sys
from pathlib import Path
from tests.study_tests.test_snapshots import full
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
full(Path(sys.argv[1]))
"""


def full(place: Path) -> None:
    notes: list[Any] = []
    keep = keeper(place, notes)
    facts, arrays = gather(World(), state())
    said = [keep.write({"iteration": i, "facts": facts, "reports": []}, arrays) for i in (1, 2)]
    os.write(1, json.dumps([said, notes, names(place)]).encode())


def test_what_cannot_be_written_is_said_once_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    said, notes, left = json.loads(done.stdout)
    reason = f"no snapshot could be written to '{tmp_path}': File too large"
    assert said == [[False, reason]] * 2
    assert notes == [{"snapshot failure": reason}]
    assert left == []
    assert done.stderr == f"jigsaw: {reason}; the trial goes on\n"


def test_only_snapshots_are_deleted(tmp_path: Path) -> None:
    write(tmp_path / "mine", 5)
    (tmp_path / "mine" / ".000000006.npz.ab12.part").touch()
    write(tmp_path / "other", 5)
    (tmp_path / "other" / "notes.txt").touch()
    for name in ("mine", "other", "absent"):
        discard(tmp_path / name)
    assert names(tmp_path) == ["other"]
    assert names(tmp_path / "other") == ["notes.txt"]


@pytest.mark.parametrize(
    ("keeping", "due"),
    [
        (Keeping(None, None, 3), [3, 6]),
        (Keeping(None, None, None), []),
        (Keeping(None, 1e-9, None), [1]),  # the others would take too large a share of the time
        (Keeping(None, 1e9, None), []),
    ],
)
def test_a_schedule_is_a_command_that_nobody_waits_for(
    tmp_path: Path, keeping: Keeping, due: list[int]
) -> None:
    asked = Asked({})
    steering = Steering({}, asked, Keeper(tmp_path, replace(keeping, keep=99), WANTED))
    for iteration in range(8):
        assert steering.begin(World(), iteration, 0.0, state)
    assert [int(name.split(".")[0]) for name in names(tmp_path)] == due
    assert asked.answers == {}


def test_a_command_is_answered_with_place_and_size_or_with_what_was_wrong(tmp_path: Path) -> None:
    asked = Asked({1: [Command(1, "snapshot", iteration=3)], 5: [Command(2, "snapshot")]})
    steering = Steering({}, asked, keeper(tmp_path / "here", seconds=None))
    for iteration in range(5):
        steering.begin(World(), iteration, 0.0, state)
    path = tmp_path / "here" / "000000003.npz"
    size = path.stat().st_size
    assert asked.answers == {1: (True, f"{size:,} bytes in {path}, at iteration 3")}
    discard(tmp_path / "here")
    (tmp_path / "here").touch()
    steering.begin(World(), 5, 0.0, state)
    assert asked.answers[2] == (
        False,
        f"no snapshot could be written to '{tmp_path}/here': File exists, at iteration 5",
    )


def test_a_loop_that_hands_nothing_over_refuses(tmp_path: Path) -> None:
    asked = Asked({0: [Command(1, "snapshot")]})
    Steering({}, asked, keeper(tmp_path)).begin(World(), 0, 0.0)
    assert asked.answers == {1: (False, "this objective's training hands nothing over to keep")}


def test_what_was_set_is_kept_at_once(tmp_path: Path) -> None:
    asked = Asked({2: [Command(1, "set", {"lr": 0.5})]})
    steering = Steering(SETTABLE, asked, keeper(tmp_path, seconds=None))
    steering.notes["best"] = 3
    for iteration in range(4):
        steering.begin(World(), iteration, 0.0, state)
    found, _ = newest([tmp_path], WANTED)
    again = Steering(SETTABLE, resumed=found)
    assert (again.first, again.values, again.notes) == (2, {"lr": 0.5}, {"best": 3})


@pytest.mark.parametrize("patient", [True, False])
def test_a_signal_waits_for_the_next_update_where_it_can_be_kept(
    tmp_path: Path, patient: bool
) -> None:
    world = World()
    steering = Steering({}, keeper=keeper(tmp_path, seconds=None), patient=patient)
    steering.begin(world, 0, 0.0, state)
    world.interrupted = True
    if patient:
        world.check("in the middle")
    with pytest.raises(TrialInterrupted):
        steering.begin(world, 1, 0.0, state) if patient else world.check("in the middle")
    assert names(tmp_path) == ["000000001.npz"] * patient
