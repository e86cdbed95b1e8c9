"""Comparisons are what their docstrings say: counted again by hand, over tables and random frames."""

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.study import Study

from dashboards import compare
from dashboards.choice import choose, groups
from dashboards.forms import trial_options
from dashboards.jobs import commands_frame, jobs_frame, workers_frame
from dashboards.site import make_site
from dashboards.sources import open_sources
from dashboards.view import View, parse_view
from study.curves import CurveWriter
from study.errors import UsageError
from study.mailbox import Mailbox
from study.search.frames import trials_frame
from study.search.incremental import engine_of
from study.search.joining import open_session
from study.search.trials import send
from study.steering import Command
from tests.dashboards_tests.conftest import LINEAR, make_study

START = datetime(2026, 1, 1)
FRAME = pd.DataFrame(
    {
        "study": ["a", "a", "a", "b"], "number": [0, 1, 2, 0],
        "state": ["complete", "complete", "pruned", "complete"], "value": [0.2, 0.6, 0.9, 0.4],
        "datetime_start": [START, START + timedelta(hours=1), START + timedelta(hours=2), START],
        "seconds": [3600.0, 1800.0, 900.0, 60.0], "step": [100.0, 200.0, 50.0, 10.0],
        "core_hours": [2.0, 1.0, 0.5, 0.1], "gpu_hours": [1.0, np.nan, 0.5, np.nan],
        "arch.name": ["unet", "resnet", "unet", None], "arch.width": [8, 16, 32, 64], "flip": [True, False, None, True],
        "error.eps04": [0.1, 0.3, 0.9, 0.2], "error.eps16": [0.3, 0.9, np.nan, 0.6],
    }
)  # fmt: skip


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ([], [0, 1, 2, 3]),
        (["arch.name=unet"], [0, 2]),
        (["arch.name==unet"], [0, 2]),
        (["arch.name != unet"], [1, 3]),
        (["arch.name=none"], [3]),
        (["arch.width>=16"], [1, 2, 3]),
        (["arch.width>16", "arch.width < 64"], [2]),
        (["arch.width<=8"], [0]),
        (["arch.width=16.0"], [1]),
        (["flip=true"], [0, 3]),
        (["error.eps16>0"], [0, 1, 3]),
        (["state=complete", "study=a"], [0, 1]),
    ],
)
def test_filters(filters: list[str], kept: list[int]) -> None:
    assert choose(FRAME, filters).index.tolist() == kept


def test_groups_of_text_numbers_and_nothing() -> None:
    assert groups(FRAME, "").tolist() == ["all"] * 4
    assert groups(FRAME, "arch.name").tolist() == ["unet", "resnet", "unet", "none"]
    assert groups(FRAME, "arch.width").tolist() == ["8", "16", "32", "64"]
    many = pd.DataFrame({"x": np.arange(100.0), "word": [f"w{i}" for i in range(100)]})
    assert groups(many, "x").value_counts().tolist() == [25] * 4
    assert groups(many, "word").value_counts().to_dict()["others"] == 88


def test_group_table_is_the_mean_with_students_interval() -> None:
    table = compare.group_table(FRAME, "study").set_index("study")
    assert table.index.tolist() == ["a", "b"]
    row = table.loc["a"]
    assert (row["trials"], row["complete"], row["pruned"], row["best"]) == (3, 2, 1, 0.6)
    # Student's t for one degree of freedom at 95 %: 12.7062; standard error of (0.2, 0.6): 0.2.
    assert (row["mean"], row["low"], row["high"]) == pytest.approx(
        (0.4, 0.4 - 2.54124, 0.4 + 2.54124), abs=1e-4
    )
    assert row["core_hours"] == pytest.approx(3.5)
    assert np.isnan(table.loc["b", "low"])
    assert compare.group_table(FRAME, "study", maximize=False)["best"].tolist() == [0.2, 0.4]


@pytest.mark.parametrize(
    ("of", "errors"),
    [
        ("mean", {("a", 4): 0.2, ("a", 16): 0.6, ("b", 4): 0.2, ("b", 16): 0.6}),
        ("best", {("a", 4): 0.3, ("a", 16): 0.9, ("b", 4): 0.2, ("b", 16): 0.6}),
    ],
)
def test_epsilon_curves(of, errors) -> None:  # type: ignore[no-untyped-def]
    curves = compare.epsilon_curves(FRAME, "study", of)
    found = {(r.group, r.epsilon): r.error for r in curves.itertuples()}
    assert found == pytest.approx(errors)
    known = curves.dropna()
    assert ((known["low"] >= 0) & (known["high"] <= 1)).all()


@pytest.mark.parametrize(
    ("axis", "places"),
    [
        ("trials", {("a", 0): 0, ("a", 1): 1, ("a", 2): 2, ("b", 0): 0}),
        ("hours", {("a", 0): 1, ("a", 1): 1.5, ("a", 2): 2.25, ("b", 0): 1 / 60}),
        ("steps", {("a", 0): 100, ("a", 1): 300, ("a", 2): 350, ("b", 0): 10}),
        ("core_hours", {("a", 0): 2, ("a", 1): 3, ("a", 2): 3.5, ("b", 0): 0.1}),
        ("gpu_hours", {("a", 0): 1, ("a", 1): 1, ("a", 2): 1.5, ("b", 0): 0}),
    ],
)
def test_where_trials_lie(axis, places) -> None:  # type: ignore[no-untyped-def]
    frame = compare.best_so_far(FRAME, axis, "study")
    assert {(r.study, r.number): r.x for r in frame.itertuples()} == pytest.approx(places)
    best = frame.set_index(["study", "number"])["best"].to_dict()
    # The pruned trial's larger value is of less training: it is no best.
    assert (best["a", 1], best["a", 2], best["b", 0]) == (0.6, 0.6, 0.4)


POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


@settings(deadline=None)
@given(POINTS, st.booleans(), st.booleans())
def test_pareto_front_is_what_nothing_beats(
    points: list[tuple[int, int]], up_x: bool, up_y: bool
) -> None:
    found = compare.pareto_front(
        [x for x, _ in points], [y for _, y in points], maximize_x=up_x, maximize_y=up_y
    )
    signed = [((1 if up_x else -1) * x, (1 if up_y else -1) * y) for x, y in points]
    beaten = [any(a >= x and b >= y and (a, b) != (x, y) for a, b in signed) for x, y in signed]
    assert found.tolist() == [not b for b in beaten]


def test_changes_come_first() -> None:
    table = compare.changes(FRAME, 0, 1, ["study", "arch.name", "arch.width", "absent"])
    assert table.to_dict("records") == [
        {"name": "arch.name", "one": "unet", "other": "resnet", "changed": True},
        {"name": "arch.width", "one": 8, "other": 16, "changed": True},
        {"name": "study", "one": "a", "other": "a", "changed": False},
    ]
    lacking = compare.changes(FRAME, 0, 3, ["arch.name"])
    assert lacking["changed"].tolist() == [True]
    assert compare.changes(FRAME, 2, 2, ["flip", "error.eps16"]).empty


def test_trials_of_a_real_study(linear_study: Study) -> None:
    frame = compare.trials(linear_study, linear_study)
    assert frame["study"].unique().tolist() == ["linear (1)", "linear (2)"]
    one = frame[frame["study"] == "linear (1)"]
    assert one["value"].tolist() == trials_frame(linear_study)["value"].tolist()
    last = [max(t.intermediate_values) for t in linear_study.trials]
    assert one["step"].tolist() == last
    spent = [t.user_attrs["cost"]["cpu_seconds"] / 3600 for t in linear_study.trials]
    assert one["core_hours"].tolist() == pytest.approx(spent)


VIEWS = st.builds(
    View, study=st.tuples(st.text(min_size=1).filter(str.strip)), group=st.text().filter(lambda t: t == t.strip()),
    page=st.integers(1, 99), smooth=st.floats(0, 0.99), log=st.booleans(), axis=st.sampled_from(["trials", "hours"]),
    epsilon=st.none() | st.integers(1, 255),
)  # fmt: skip


@settings(deadline=None)
@given(VIEWS)
def test_an_address_is_the_whole_view(view: View) -> None:
    from werkzeug.datastructures import MultiDict
    from werkzeug.test import EnvironBuilder
    from werkzeug.wrappers import Request

    asked = Request(EnvironBuilder(query_string=view.query()).get_environ()).args
    assert isinstance(asked, MultiDict)
    assert parse_view(asked.items(multi=True)) == view


def test_an_address_that_asks_too_much() -> None:
    with pytest.raises(
        UsageError, match=r"^the address asks for what cannot be shown: page is '-1'"
    ):
        parse_view([("page", "-1")])
    assert parse_view([("unknown", "1"), ("page", " ")]) == View()


def test_options_are_the_best() -> None:
    assert trial_options(FRAME.head(2), 1) == [("a:0", "a:0 (0.2)")]


class TestRunning:
    @pytest.fixture
    def running(self, url: str) -> Study:
        """A study of two finished trials and one that runs and has reported once."""
        study = make_study(url, "live", LINEAR, 2)
        session = open_session(url, "live", {})
        session.ask({"hosts": ["node7"], "ranks": 3})
        session.record(100, 0.25, {})
        assert session._curves is not None
        session._curves.flush()
        return study

    def test_only_news_is_read(
        self, running: Study, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import dashboards.sources

        [source] = open_sources([url]).find(["0/live"])
        monkeypatch.setattr(dashboards.sources, "_FRESH", 0)
        before = source.trials()
        asked: list[object] = []
        real = dashboards.sources.study_trials
        monkeypatch.setattr(
            dashboards.sources, "study_trials", lambda *a: asked.append(a[2:]) or real(*a)
        )
        running.tell(2, 0.75)
        after = source.trials()
        assert asked == [([before["trial_id"][2]],)]
        assert after["state"].tolist() == ["complete"] * 3
        assert after["value"][2] == 0.75
        assert before["state"][2] == "running"
        source.trials()
        assert len(asked) == 1

    def test_points_come_once(self, running: Study, url: str) -> None:
        from dashboards.site import make_site

        client = make_site(open_sources([url])).test_client()

        def ask(cursor: str) -> dict[str, Any]:
            found = client.get("/increments", query_string={"study": "0/live", "cursor": cursor})
            return dict(found.get_json())

        first = ask("")
        uid = running.get_trials(deepcopy=False)[2].user_attrs["uid"]
        writer = CurveWriter(engine_of(running), uid)
        writer._started -= 100  # as if the trial had run for a while
        writer.add(200, {"accuracy": 0.5, "loss": 1.0})
        writer.flush()
        cursors = [first["cursor"]]
        points = []
        for _ in range(3):
            news = ask(cursors[-1])
            points += news["points"]
            cursors.append(news["cursor"])
        assert points == [["0/live:2", "accuracy", 200.0, 0.5]]
        assert news["states"] == {"0/live:2": "running"}
        running.tell(2, 0.5)
        session = open_session(url, "live", {})
        session.ask({})
        news = ask(cursors[-1])
        assert news["states"] == {"0/live:2": "complete", "0/live:3": "running"}

    @pytest.mark.parametrize("smooth", ["0", "0.5"])
    def test_increments_along_another_key(self, running: Study, url: str, smooth: str) -> None:
        client = make_site(open_sources([url])).test_client()
        view = {"study": "0/live", "along": "epoch", "smooth": smooth}
        cursor = client.get("/increments", query_string=view).get_json()["cursor"]
        uid = running.get_trials(deepcopy=False)[2].user_attrs["uid"]
        writer = CurveWriter(engine_of(running), uid)
        writer._started -= 100  # as if the trial had run for a while
        writer.add(200, {"accuracy": 0.25, "epoch": 1.5})
        writer.add(300, {"accuracy": 0.25})
        writer.flush()
        news = client.get("/increments", query_string={**view, "cursor": cursor}).get_json()
        assert news["points"] == [["0/live:2", "accuracy", 1.5, 0.25]]

    def test_jobs_say_who_runs_what(self, running: Study, url: str) -> None:
        [source] = open_sources([url]).find([])
        owner = running.get_trials(deepcopy=False)[2].user_attrs["owner"]
        began = running.get_trials(deepcopy=False)[2].datetime_start
        assert began is not None
        jobs = jobs_frame(source, began + timedelta(minutes=5))
        row = jobs.iloc[0]
        assert (row["trial"], row["state"], row["host"], row["process"]) == (
            2,
            "running",
            owner["host"],
            owner["pid"],
        )
        assert (row["ranks"], row["step"], row["value"], row["minutes"]) == (
            3,
            100,
            0.25,
            pytest.approx(5),
        )
        assert 290 < row["report ago (s)"] <= 300
        workers = workers_frame(jobs)
        assert workers["recent trials"].sum() == 3
        assert "2" in workers["runs"].tolist()

    def test_jobs_show_commands_and_their_answers(self, running: Study, url: str) -> None:
        [source] = open_sources([url]).find([])
        assert commands_frame(source).empty
        asked = Command(send(running, 2, Command(0, "set", {"lr": 0.1})), "set", {"lr": 0.1})
        send(running, 2, Command(0, "stop", epoch=3))
        uid = running.get_trials(deepcopy=False)[2].user_attrs["uid"]
        Mailbox(engine_of(running), uid).answer(asked, "from iteration 9 on", done=True)
        shown = commands_frame(source)
        columns = ["trial", "command", "when", "state", "answer"]
        assert shown[columns].fillna("-").to_numpy().tolist() == [
            [2, "stop", "epoch 3", "queued", "-"],
            [2, "set lr=0.1", "at once", "done", "from iteration 9 on"],
        ]
        assert abs(datetime.now() - shown["asked"].iloc[0]) < timedelta(minutes=2)
        page = make_site(open_sources([url])).test_client().get("/jobs").get_data(as_text=True)
        assert "set lr=0.1" in page
        assert "from iteration 9 on" in page
