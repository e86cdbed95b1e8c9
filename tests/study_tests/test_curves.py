import math
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, event, func, select

from study.curves import CURVES, CurveWriter, read_curves
from study.errors import UsageError
from study.search.storage import open_storage


@pytest.fixture
def engine(database_url: str) -> Any:
    return open_storage(database_url, create=True).engine


def rows(engine: Engine, *uids: str) -> list[tuple[Any, ...]]:
    frame = read_curves(engine, uids)[["uid", "key", "step", "value"]]
    return list(frame.itertuples(index=False, name=None))


def count(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(CURVES)).scalar_one())


def test_curves_come_back_ordered_and_apart(engine: Engine) -> None:
    for uid in ("v", "u"):
        writer = CurveWriter(engine, uid)
        writer.add(20, {"loss": 2.0})
        writer.add(10, {"loss": 1.0, "error": 0.5})
        writer.flush()
    assert rows(engine, "u") == [
        ("u", "error", 10, 0.5),
        ("u", "loss", 10, 1),
        ("u", "loss", 20, 2),
    ]
    assert [row[0] for row in rows(engine, "v", "u")] == ["u"] * 3 + ["v"] * 3
    assert rows(engine, "w") == rows(engine) == []
    assert read_curves(engine, ["u"], ["error"])["key"].tolist() == ["error"]
    assert read_curves(engine, ["u"], [])["key"].tolist() == []


def test_every_float_comes_back(engine: Engine) -> None:
    values = [math.nan, math.inf, -math.inf, 0.0, -1e300, 1e-300, 2.5]
    writer = CurveWriter(engine, "u")
    for step, value in enumerate(values):
        writer.add(step, {"x": value, "only nan": math.nan})
    writer.flush()
    for key, expected in (("x", values), ("only nan", [math.nan] * len(values))):
        frame = read_curves(engine, ["u"], [key])
        assert frame["value"].dtype == float
        assert frame["value"].tolist() == pytest.approx(expected, nan_ok=True, rel=0, abs=0)


@pytest.mark.parametrize("flush", [True, False])
def test_a_key_reported_twice_at_a_step_keeps_its_first_value(engine: Engine, flush: bool) -> None:
    writer = CurveWriter(engine, "u", every=1e9)
    writer.add(1, {"loss": 1.0})
    if flush:
        writer.flush()
    writer.add(1, {"loss": 2.0, "error": 3.0})
    writer.flush()
    writer.flush()
    assert rows(engine, "u") == [("u", "error", 1, 3.0), ("u", "loss", 1, 1.0)]


@pytest.mark.parametrize(("every", "written"), [(1e9, 0), (0.0, 3)])
def test_batches(engine: Engine, every: float, written: int) -> None:
    writer = CurveWriter(engine, "u", every)
    for step in range(3):
        writer.add(step, {"loss": 1.0})
    assert count(engine) == written
    writer.flush()
    assert count(engine) == 3


def test_what_could_not_be_written_is_written_by_the_next_batch(engine: Engine) -> None:
    writer = CurveWriter(engine, "u", every=1e9)
    writer.add(1, {"loss": 1.0})

    def broken(*given: Any) -> None:
        raise OSError("connection lost")

    event.listen(engine, "before_execute", broken)
    with pytest.raises(OSError, match="connection lost"):
        writer.flush()
    event.remove(engine, "before_execute", broken)
    writer.flush()
    assert rows(engine, "u") == [("u", "loss", 1, 1.0)]


def test_many_keys_and_trials(engine: Engine) -> None:
    logs = {f"key{k:03}": float(k) for k in range(100)}
    for uid in ("a", "b"):
        writer = CurveWriter(engine, uid)
        for step in range(10):
            writer.add(step, logs)
        writer.flush()
    uids = [f"other{k}" for k in range(40_000)] + ["a", "b", "a"]
    frame = read_curves(engine, uids, ["key007", "key099"])
    assert frame["uid"].tolist() == ["a"] * 20 + ["b"] * 20
    assert frame["step"].tolist() == [*range(10)] * 4


def test_numbers_of_numpy(engine: Engine) -> None:
    writer = CurveWriter(engine, "u")
    writer.add(np.int64(3), {"x": np.float32(0.5), "y": np.array(2)})  # type: ignore[arg-type,dict-item]
    writer.flush()
    assert rows(engine, "u") == [("u", "x", 3, 0.5), ("u", "y", 3, 2.0)]


def test_a_key_that_does_not_fit_is_refused(engine: Engine) -> None:
    writer = CurveWriter(engine, "u", every=0)
    writer.add(0, {"k" * 128: 1.0})
    with pytest.raises(
        UsageError, match=r"^curve key 'k+' has 129 characters; at most 128 are kept$"
    ):
        writer.add(0, {"k" * 129: 1.0})


def test_workers_that_come_first_together(database_url: str) -> None:
    engines = [open_storage(database_url, create=True).engine for _ in range(4)]
    start = Barrier(len(engines))

    def write(k: int) -> None:
        start.wait()
        writer = CurveWriter(engines[k], f"u{k}")
        writer.add(0, {"x": float(k)})
        writer.flush()

    with ThreadPoolExecutor(len(engines)) as pool:
        list(pool.map(write, range(len(engines))))
    assert count(engines[0]) == len(engines)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.dictionaries(st.sampled_from("abc"), st.floats(), max_size=3)
        ),
        max_size=8,
    ),
    st.sampled_from([0.0, 1e9]),
)
@settings(max_examples=30, deadline=None)
def test_the_first_value_of_a_step_stays_whatever_is_reported(
    reports: list[tuple[int, dict[str, float]]], every: float
) -> None:
    engine = create_engine("sqlite://")
    writer = CurveWriter(engine, "u", every)
    first: dict[tuple[str, int], float] = {}
    for step, logs in reports:
        writer.add(step, logs)
        for key, value in logs.items():
            first.setdefault((key, step), value)
    writer.flush()
    found = {(key, step): value for _, key, step, value in rows(engine, "u")}
    assert found.keys() == first.keys()
    # Adding 0.0 makes 0.0 of -0.0: SQLite keeps whole numbers without a sign of zero.
    assert all(str(float(found[place]) + 0.0) == str(first[place] + 0.0) for place in first)
    engine.dispose()


def test_a_process_looks_for_the_tables_once(tmp_path: Any) -> None:
    engine = open_storage(f"sqlite:///{tmp_path}/s.db", create=True).engine
    CurveWriter(engine, "u")
    seen: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *facts: seen.append(facts[2]))
    CurveWriter(engine, "v")
    assert seen == []
