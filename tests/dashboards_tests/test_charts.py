"""Every chart shows the numbers of its frame, and says so where there is nothing to show."""

import json
from collections.abc import Callable

import numpy as np
import optuna
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.study import Study

from dashboards import charts, facets
from dashboards.look import PALETTE, STATE_COLOURS, TEMPLATE, label
from study.search.frames import curves_frame, trials_frame

STATES = tuple(STATE_COLOURS)
NO_TRIALS = pd.DataFrame(columns=["number", "state", "value", "datetime_start", "seconds"])
NO_CURVES = pd.DataFrame(columns=["number", "key", "step", "value", "seconds"])
NO_EVALUATIONS = pd.DataFrame(
    columns=["attack", "epsilon", "classifier", "error", "low", "high", "l2", "images", "made"]
)
TRIALS = pd.DataFrame(
    {
        "number": [0, 1, 2, 3, 4, 5, 6],
        "state": ["complete", "pruned", "complete", "fail", "complete", "running", "waiting"],
        "value": [0.2, 0.1, 0.5, None, 0.4, None, None],
        "seconds": [10.0, 5.0, 20.0, 1.0, 30.0, None, None],
        "lr": [1e-4, 1e-3, 1e-2, 1e-1, 1e-3, 1e-3, None],
        "kind": ["a", "b", None, "a", "<b>", "a", None],
        "flip": [True, False, True, None, False, True, None],
    }
)
CURVES = pd.DataFrame(
    [
        {"number": n, "key": key, "step": step, "value": n + step / 100, "seconds": 1.0}
        for n in (0, 1, 2, 3, 4)
        for key in ("error", "loss")
        for step in (10, 20)
    ]
)


def named(chart: go.Figure, name: str) -> go.Scatter:
    return next(trace for trace in chart.data if trace.name == name)


def sentence(chart: go.Figure) -> str:
    assert len(chart.data) == 0
    return str(chart.layout.annotations[0].text)


def finite(values: list[float]) -> list[float]:
    return [v for v in values if v is not None and np.isfinite(v)]


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: charts.history(NO_TRIALS), "No trial yet."),
        (lambda: charts.states(NO_TRIALS), "No trial yet."),
        (lambda: charts.curves(NO_CURVES, "loss"), "No trial reported loss."),
        (lambda: charts.curves(CURVES, "<b>"), "No trial reported &lt;b&gt;."),
        (lambda: charts.curves(CURVES.assign(value=np.nan), "loss"), "No trial reported loss."),
        (lambda: charts.importances(optuna.create_study()), "at least two complete trials"),
        (lambda: facets.slices(NO_TRIALS, ["lr"]), "No complete trial has a value at lr."),
        (lambda: facets.slices(TRIALS, ["absent"]), "No complete trial has a value at absent."),
        (lambda: facets.slices(TRIALS, []), "at no parameter"),
        (lambda: facets.slices(TRIALS.assign(value=np.inf), ["lr"]), "No complete trial"),
        (lambda: facets.epsilon_error(NO_EVALUATIONS), "No attack was evaluated yet"),
        (lambda: facets.epsilon_error(NO_EVALUATIONS, ["plain"]), "No attack was evaluated yet"),
    ],
)
def test_says_why_it_is_empty(draw: Callable[[], go.Figure], said: str) -> None:
    chart = draw()
    assert said in sentence(chart)
    assert not chart.layout.xaxis.visible


class TestHistory:
    def test_shows_every_trial_by_state(self) -> None:
        chart = charts.history(TRIALS, metric="error")
        assert list(named(chart, "complete").x) == [0, 2, 4]
        assert list(named(chart, "complete").y) == [0.2, 0.5, 0.4]
        assert list(named(chart, "pruned").y) == [0.1]
        for name in ("fail, no value", "running, no value", "waiting, no value"):
            assert named(chart, name).yaxis == "y2"
        colours = [named(chart, s).marker.color for s in ("complete", "pruned")]
        assert colours == [STATE_COLOURS["complete"], STATE_COLOURS["pruned"]]
        assert chart.layout.yaxis.title.text == "error"

    @pytest.mark.parametrize(
        ("maximize", "best"), [(True, [0.2, 0.5, 0.5]), (False, [0.2, 0.2, 0.2])]
    )
    def test_best_so_far(self, maximize: bool, best: list[float]) -> None:
        line = named(charts.history(TRIALS, maximize=maximize), "best so far")
        assert (list(line.x), list(line.y)) == ([0, 2, 4], best)

    @given(
        st.lists(
            st.tuples(st.sampled_from(STATES), st.floats() | st.none()), min_size=1, max_size=12
        )
    )
    def test_any_trials(self, rows: list[tuple[str, float | None]]) -> None:
        frame = pd.DataFrame(rows, columns=["state", "value"]).assign(
            number=range(len(rows)), seconds=np.nan
        )
        chart = charts.history(frame)
        dots = [trace for trace in chart.data if trace.mode == "markers"]
        assert sorted(n for trace in dots for n in trace.x) == list(range(len(rows)))
        complete = finite([value for state, value in rows if state == "complete"])
        lines = [trace for trace in chart.data if trace.name == "best so far"]
        assert [trace.y[-1] for trace in lines] == ([max(complete)] if complete else [])
        json.loads(chart.to_json())

    def test_of_a_real_study(self, linear_study: Study) -> None:
        frame = trials_frame(linear_study)
        chart = charts.history(frame)
        assert list(named(chart, "complete").y) == frame["value"].tolist()
        assert named(chart, "best so far").y[-1] == linear_study.best_value


class TestCurves:
    def test_a_line_per_trial_and_the_best_on_top(self) -> None:
        chart = charts.curves(CURVES, "loss", TRIALS)
        names = [trace.name for trace in chart.data]
        assert names[-1] == "best: trial 2"
        assert sorted(names[:-1]) == ["complete", "fail", "pruned"]
        best = named(chart, "best: trial 2")
        assert list(best.x) == [10, 20, 20]
        assert list(best.y)[:2] == [2.1, 2.2]
        assert np.isnan(best.y[2])
        others = named(chart, "complete")
        assert list(others.customdata) == [0, 0, 0, 4, 4, 4]
        assert np.isnan(others.y[[2, 5]]).all()
        assert best.line.width > others.line.width > named(chart, "pruned").line.width

    def test_smaller_can_be_better(self) -> None:
        chart = charts.curves(CURVES, "loss", TRIALS, maximize=False)
        assert chart.data[-1].name == "best: trial 0"

    def test_without_trials_all_lines_are_equal(self) -> None:
        chart = charts.curves(CURVES, "error")
        assert [trace.name for trace in chart.data] == ["trials"]
        assert set(chart.data[0].customdata) == {0, 1, 2, 3, 4}

    def test_infinite_values_are_gaps(self) -> None:
        frame = CURVES.assign(value=[np.inf, *CURVES["value"][1:-1], -np.inf])
        assert not np.isinf(charts.curves(frame, "error").data[0].y).any()
        assert not np.isinf(charts.curves(frame, "loss").data[0].y).any()

    def test_of_many_trials_the_best_are_drawn(self) -> None:
        numbers = np.arange(400)
        frame = pd.DataFrame({"number": numbers, "key": "loss", "step": 1, "value": 0.5})
        trials = pd.DataFrame({"number": numbers, "state": "complete", "value": numbers % 397})
        chart = charts.curves(frame, "loss", trials)
        assert "300 of 400 trials" in chart.layout.title.text
        drawn = {n for trace in chart.data for n in trace.customdata}
        assert len(drawn) == 300
        assert set(range(97, 397)) == drawn

    def test_of_a_real_study(self, linear_study: Study) -> None:
        frame, trials = curves_frame(linear_study), trials_frame(linear_study)
        chart = charts.curves(frame, "accuracy", trials)
        drawn = {
            (int(n), int(x), float(y))
            for trace in chart.data
            for n, x, y in zip(trace.customdata, trace.x, trace.y, strict=True)
            if not np.isnan(y)
        }
        assert drawn == set(zip(frame["number"], frame["step"], frame["value"], strict=True))


class TestImportances:
    def test_of_a_conditional_space(self, linear_study: Study) -> None:
        chart = charts.importances(linear_study)
        bars = chart.data[0]
        assert set(bars.y) == {"loss", "alpha", "eta0"}
        assert sum(bars.x) == pytest.approx(1)
        assert list(bars.x) == sorted(bars.x)
        assert "from 6 complete trials" in chart.layout.title.text

    @pytest.mark.parametrize("bad", [1, 2])
    def test_only_finite_values_count(self, bad: int) -> None:
        study = optuna.create_study()
        for value in [1.0, *[float("inf")] * bad]:
            trial = optuna.trial.create_trial(
                params={"x": 0.5}, value=value,
                distributions={"x": optuna.distributions.FloatDistribution(0, 1)},
            )  # fmt: skip
            study.add_trial(trial)
        assert "at least two" in sentence(charts.importances(study))

    @pytest.mark.parametrize(
        ("names", "said"), [([], "no parameters"), (["x", "y"], "do not differ enough")]
    )
    def test_nothing_to_tell_apart(self, names: list[str], said: str) -> None:
        study = optuna.create_study()
        domain = optuna.distributions.FloatDistribution(0, 1)
        for _ in range(3):
            trial = optuna.trial.create_trial(
                params=dict.fromkeys(names, 0.5),
                value=1.0,
                distributions=dict.fromkeys(names, domain),
            )
            study.add_trial(trial)
        assert said in sentence(charts.importances(study))


class TestStates:
    def test_seconds_and_counts(self) -> None:
        bars = charts.states(TRIALS).data[0]
        found = dict(zip(bars.y, bars.x, strict=True))
        assert found == {"complete": 60, "pruned": 5, "fail": 1, "running": 0, "waiting": 0}
        assert dict(zip(bars.y, bars.text, strict=True))["complete"] == "3 trials"
        assert dict(zip(bars.y, bars.text, strict=True))["pruned"] == "1 trial"
        assert list(bars.marker.color) == [STATE_COLOURS[state] for state in bars.y]

    @pytest.mark.parametrize(
        ("seconds", "unit", "length"),
        [(119, "s", 119), (120, "min", 2), (7199, "min", 119.98333), (7200, "h", 2)],
    )
    def test_unit(self, seconds: float, unit: str, length: float) -> None:
        chart = charts.states(pd.DataFrame({"state": ["complete"], "seconds": [seconds]}))
        assert chart.data[0].x[0] == pytest.approx(length)
        assert chart.layout.xaxis.title.text == f"wall-clock time ({unit})"


@pytest.mark.parametrize(
    ("values", "states", "maximize", "best"),
    [
        ([1, 3, 2], ["complete"] * 3, True, 1),
        ([1, 3, 2], ["complete"] * 3, False, 0),
        ([1, 3, 2], ["complete", "pruned", "complete"], True, 2),
        ([np.nan, np.inf, 0], ["complete"] * 3, True, 2),
        ([np.nan, None, None], ["complete", "fail", "fail"], True, None),
        ([], [], True, None),
    ],
)
def test_best_number(
    values: list[float], states: list[str], maximize: bool, best: int | None
) -> None:
    frame = pd.DataFrame({"number": range(len(values)), "value": values, "state": states})
    assert charts.best_number(frame, maximize=maximize) == best


class TestSlices:
    def test_points_are_the_complete_trials(self) -> None:
        chart = facets.slices(TRIALS, ["lr", "kind", "flip"], log=["lr"], metric="error")
        lr, kind, flip = chart.data
        assert (list(lr.x), list(lr.y)) == ([1e-4, 1e-2, 1e-3], [0.2, 0.5, 0.4])
        assert (list(kind.x), list(kind.y)) == (["a", "&lt;b&gt;"], [0.2, 0.4])
        assert list(kind.customdata) == [0, 4]
        assert list(flip.x) == ["True", "True", "False"]
        axes = [chart.layout[f"xaxis{i}"] for i in ("", 2, 3)]
        assert [axis.type for axis in axes] == ["log", "category", "category"]
        assert [axis.title.text for axis in axes] == ["lr (log)", "kind", "flip"]
        assert chart.layout.yaxis.title.text == "error"

    def test_no_logarithm_of_zero(self) -> None:
        chart = facets.slices(TRIALS.assign(lr=0.0), ["lr"], log=["lr"])
        assert chart.layout.xaxis.type == "linear"

    def test_rows_and_columns(self) -> None:
        names = [f"p{i}" for i in range(5)]
        frame = TRIALS.assign(**dict.fromkeys(names, 1.0))
        chart = facets.slices(frame, names, columns=2)
        assert len(chart.data) == 5
        titles = [chart.layout[f"yaxis{i}"].title.text for i in ("", 2, 3, 4, 5)]
        assert titles == ["value", None, "value", None, "value"]


class TestEpsilonError:
    def test_lines_and_bands(self, evaluations: pd.DataFrame) -> None:
        chart = facets.epsilon_error(evaluations)
        lines = [trace for trace in chart.data if trace.mode == "lines+markers"]
        bands = [trace for trace in chart.data if trace.fill == "toself"]
        assert len(lines) == len(bands) == 6
        first = evaluations[
            (evaluations["classifier"] == "plain") & (evaluations["attack"] == "trial 3")
        ]
        assert (list(lines[0].x), list(lines[0].y)) == ([4, 8], first["error"].tolist())
        assert list(bands[0].x) == [4, 8, 8, 4]
        assert list(bands[0].y) == [*first["high"], *first["low"][::-1]]
        assert [a.text for a in chart.layout.annotations] == [
            "plain", "&lt;i&gt;jpeg&lt;/i&gt;", "median",
        ]  # fmt: skip
        assert sum(bool(line.showlegend) for line in lines) == 2
        assert tuple(chart.layout.xaxis.tickvals) == (4, 8)

    def test_an_attack_keeps_its_colour(self, evaluations: pd.DataFrame) -> None:
        part = evaluations[
            (evaluations["classifier"] != "median") | (evaluations["attack"] == "noop")
        ]
        alone = facets.epsilon_error(part, ["median"])
        assert [trace.name for trace in alone.data] == ["noop", "noop"]
        assert alone.data[1].line.color == PALETTE[1]
        assert alone.data[1].showlegend
        assert alone.layout.title.text == "median"

    def test_missing_errors_and_bands(self, evaluations: pd.DataFrame) -> None:
        frame = evaluations.copy()
        frame.loc[frame["epsilon"] == 4, "low"] = np.nan
        frame.loc[frame["attack"] == "noop", "error"] = np.nan
        band, line = facets.epsilon_error(frame, ["plain"]).data
        assert list(band.x) == [8, 8]
        assert list(line.x) == [4, 8]


def test_template_is_ours_and_the_colours_differ() -> None:
    assert len(set(PALETTE)) == len(PALETTE)
    assert len(set(STATE_COLOURS.values())) == len(STATE_COLOURS)
    chart = charts.history(TRIALS)
    assert chart.layout.template == TEMPLATE
    assert chart.layout.template.layout.plot_bgcolor == "white"


@given(st.text())
def test_label_leaves_no_markup(text: str) -> None:
    shown = label(text)
    assert "<" not in shown
    assert ">" not in shown
    assert shown.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == text
