"""Every chart shows the numbers of its frame, and says so where there is nothing to show."""

import json
from collections.abc import Callable

import numpy as np
import optuna
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.study import Study

from dashboards import charts, facets, landscape
from dashboards.compare import epsilon_curves
from dashboards.curves import smoothed, trial_curves
from dashboards.importance import importance_shares, importances
from dashboards.look import PALETTE, STATE_COLOURS, TEMPLATE, label
from study.search.frames import curves_frame, trials_frame
from study.search.incremental import engine_of
from study.search.records import read_distributions

STATES = tuple(STATE_COLOURS)
NO_TRIALS = pd.DataFrame(columns=["number", "state", "value", "datetime_start", "seconds"])
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
        {"study": "s", "number": n, "state": state, "key": key, "step": step, "value": n + step / 100,
         "seconds": step / 10}
        for n, state in enumerate(("complete", "pruned", "complete", "fail", "complete", "running"))
        for key in ("error", "loss")
        for step in (10, 20)
    ]
)  # fmt: skip


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
        (lambda: trial_curves(CURVES.iloc[:0], ["loss"]), "reported loss by step."),
        (lambda: trial_curves(CURVES, ["<b>"]), "reported &lt;b&gt; by step."),
        (lambda: trial_curves(CURVES.assign(value=np.nan), ["loss"]), "reported loss by step."),
        (lambda: importances(NO_TRIALS, {}), "at least two complete trials"),
        (lambda: landscape.epsilon_groups(epsilon_curves(NO_TRIALS)), "No complete trial has"),
        (lambda: landscape.contour(NO_TRIALS, "lr", "flip"), "Fewer than three complete trials"),
        (lambda: landscape.contour(TRIALS, "lr", "lr"), "Fewer than three complete trials"),
        (lambda: landscape.contour(TRIALS, "lr", "absent"), "Fewer than three complete trials"),
        (lambda: landscape.parallel(NO_TRIALS, ["lr"]), "No two complete trials differ"),
        (lambda: landscape.pareto(TRIALS, "<i>", "value"), "No column &lt;i&gt; here."),
        (lambda: landscape.pareto(NO_TRIALS, "seconds", "value"), "Nothing has both"),
        (lambda: landscape.heat_map(NO_EVALUATIONS), "No attack was evaluated yet"),
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

    @settings(deadline=None)
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

    def test_along_another_key(self) -> None:
        epochs = CURVES[CURVES["key"] == "loss"].assign(key="epoch", value=lambda f: f["step"] / 4)
        lost = epochs["number"] == 2
        chart = trial_curves(pd.concat([CURVES, epochs[~lost]]), ["loss"], along="epoch")
        assert chart.layout.xaxis.title.text == "epoch"
        drawn = {who: [] for who in ("s:0", "s:1", "s:2")}
        for trace in chart.data:
            for who, x in zip(trace.customdata, trace.x, strict=True):
                drawn.get(who, []).append(float(x))
        assert drawn == {"s:0": [2.5, 5.0], "s:1": [2.5, 5.0], "s:2": []}

    def test_of_a_real_study(self, linear_study: Study) -> None:
        frame = trials_frame(linear_study)
        chart = charts.history(frame)
        assert list(named(chart, "complete").y) == frame["value"].tolist()
        assert named(chart, "best so far").y[-1] == linear_study.best_value


X = optuna.distributions.FloatDistribution(0, 1)


def complete(**columns: list[object]) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    return pd.DataFrame({"number": range(count), "state": "complete", **columns})


class TestImportances:
    def test_of_a_conditional_space(self, linear_study: Study) -> None:
        space = read_distributions(engine_of(linear_study), linear_study._study_id)
        chart = importances(trials_frame(linear_study), space)
        bars = chart.data[0]
        assert set(bars.y) == {"loss", "alpha", "eta0"}
        assert sum(bars.x) == pytest.approx(1)
        assert list(bars.x) == sorted(bars.x)
        assert "from 6 complete trials" in chart.layout.title.text

    def test_are_those_of_optuna(self, linear_study: Study) -> None:
        space = read_distributions(engine_of(linear_study), linear_study._study_id)
        shares = importance_shares(trials_frame(linear_study), space)
        assert shares.to_dict() == pytest.approx(
            optuna.importance.get_param_importances(linear_study)
        )

    def test_per_group(self) -> None:
        rng = np.random.default_rng(0)
        frame = complete(value=list(rng.random(60)), kind=["a", "b"] * 30)
        frame["x"] = frame["value"].where(frame["kind"] == "a", rng.random(60))
        frame["y"] = frame["value"].where(frame["kind"] == "b", rng.random(60))
        chart = importances(frame, {"x": X, "y": X}, by="kind")
        found = {bar.name: dict(zip(bar.y, bar.x, strict=True)) for bar in chart.data}
        assert found["a"]["x"] > 0.6
        assert found["b"]["y"] > 0.6

    @pytest.mark.parametrize(
        ("frame", "space", "said"),
        [
            (complete(value=[1.0], x=[0.5]), {"x": X}, "at least two"),
            (complete(value=[1.0, np.inf, np.nan], x=[0.5, 0.1, 0.2]), {"x": X}, "at least two"),
            (complete(value=[1.0, 2.0]), {"x": X}, "no parameters"),
            (complete(value=[1.0] * 3, x=[0.5] * 3, y=[0.5] * 3), {"x": X, "y": X}, "do not differ enough"),
        ],
    )  # fmt: skip
    def test_nothing_to_tell_apart(self, frame, space, said) -> None:  # type: ignore[no-untyped-def]
        assert said in sentence(importances(frame, space))

    def test_values_of_another_domain_are_left_out(self) -> None:
        frame = complete(value=[1.0, 2.0, 3.0], x=["a", 7.0, None], y=[0.1, 0.2, 0.3])
        assert importance_shares(frame, {"x": X, "y": X}).to_dict() == {"y": 1.0}


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


class TestCurves:
    def test_states_are_groups_and_the_best_is_on_top(self) -> None:
        chart = trial_curves(CURVES, ["loss"], best=("s", 2))
        names = [trace.name for trace in chart.data]
        assert names[-1] == "best: trial 2"
        assert sorted(names[:-1]) == ["complete", "fail", "pruned", "running 5"]
        assert (list(chart.data[-1].x), list(chart.data[-1].y)) == ([10, 20], [2.1, 2.2])
        others = named(chart, "complete")
        assert list(others.customdata) == ["s:0", "s:0", "", "s:4", "s:4"]
        assert np.isnan(others.y[2])

    def test_a_running_trial_can_grow(self) -> None:
        trace = named(trial_curves(CURVES, ["loss"]), "running 5")
        assert trace.meta == {"trial": "s:5", "key": "loss"}
        # A typed array would not let the browser extend it.
        assert json.loads(trace.to_plotly_json() and go.Figure(trace).to_json())["data"][0][
            "x"
        ] == [10.0, 20.0]

    def test_two_axes_and_logarithms(self) -> None:
        chart = trial_curves(CURVES, ["loss"], ["error"], along="seconds", log=True)
        sides = {trace.yaxis for trace in chart.data if trace.name.startswith("error")}
        assert sides == {"y2"}
        assert chart.layout.yaxis2.side == "right"
        assert (chart.layout.yaxis.type, chart.layout.yaxis2.type) == ("log", "log")
        assert chart.layout.xaxis.title.text == "seconds since the trial began"
        assert list(chart.data[0].x)[:2] == [1.0, 2.0]

    def test_of_a_real_study(self, linear_study: Study) -> None:
        frame = curves_frame(linear_study).assign(study="s", state="complete")
        chart = trial_curves(frame, ["accuracy"])
        drawn = {
            (who, int(x), float(y))
            for trace in chart.data
            for who, x, y in zip(trace.customdata, trace.x, trace.y, strict=True)
            if who
        }
        assert drawn == {(f"s:{r.number}", r.step, r.value) for r in frame.itertuples()}

    @settings(deadline=None)
    @given(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), max_size=20), st.floats(0, 0.99))
    def test_smoothing(self, values: list[float], weight: float) -> None:
        points = pd.DataFrame({"value": values, "step": range(len(values))}).assign(
            study="s", number=0, key="k"
        )
        found = smoothed(points, weight)["value"].tolist()
        for i, value in enumerate(found):
            if np.isnan(values[i]):
                assert np.isnan(value)
                continue
            past = [
                (weight ** (i - j), v) for j, v in enumerate(values[: i + 1]) if not np.isnan(v)
            ]
            mean = sum(w * v for w, v in past) / sum(w for w, _ in past)
            assert value == pytest.approx(mean, rel=1e-6, abs=1e-6)

    def test_no_smoothing_across_trials(self) -> None:
        found = smoothed(CURVES, 0.9)
        assert (
            found.groupby(["number", "key"])["value"].first().tolist()
            == CURVES.groupby(["number", "key"])["value"].first().tolist()
        )


class TestLandscape:
    FRAME = complete(
        value=[0.1, 0.5, 0.3, 0.4, 0.2], x=[1.0, 2.0, 3.0, 1.0, 3.0], y=[1.0, 10.0, 1.0, 10.0, 10.0],
        kind=["a", "b", "a", "b", "<b>"], cost=[5.0, 4.0, 1.0, 2.0, np.inf],
        **{"error.eps04": [0.1, 0.2, 0.3, 0.4, 0.5], "error.eps16": [0.2, 0.4, 0.6, 0.8, 1.0]},
    )  # fmt: skip

    def test_contour_of_numbers_is_exact_at_the_trials(self) -> None:
        surface, dots = landscape.contour(self.FRAME, "x", "y", log=["y"]).data
        assert list(dots.x) == self.FRAME["x"].tolist()
        assert surface.y[0] == pytest.approx(1)
        assert surface.y[-1] == pytest.approx(10)
        assert surface.z[0][0] == pytest.approx(0.1)
        assert surface.z[-1][0] == pytest.approx(0.4)

    def test_contour_of_text_is_the_mean_of_a_cell(self) -> None:
        cells = landscape.contour(self.FRAME, "kind", "x").data[0]
        at = dict(
            zip(
                [label(v) for v in ("<b>", "a", "b")],
                cells.z[list(cells.y).index("3.0")],
                strict=True,
            )
        )
        assert (at["a"], at["&lt;b&gt;"]) == (0.3, 0.2)
        assert np.isnan(at["b"])

    def test_parallel_lines_are_the_trials(self) -> None:
        chart = landscape.parallel(self.FRAME, ["x", "kind", "absent"])
        drawn = {n for trace in chart.data for n in trace.customdata}
        assert drawn == {0, 1, 2, 3, 4}
        best = chart.data[-1]
        assert set(best.customdata) == {1}
        assert list(best.y)[:3] == [0.5, 1.0, 1.0]
        assert np.isnan(best.y[3])
        assert [t.split("<br>")[0] for t in chart.layout.xaxis.ticktext] == ["x", "kind", "value"]

    def test_pareto(self) -> None:
        beaten, front = landscape.pareto(self.FRAME, "cost", "value").data
        assert list(front.x) == [1.0, 2.0, 4.0]
        assert list(beaten.x) == [5.0]

    def test_heat_map_is_the_error_matrix(self, evaluations: pd.DataFrame) -> None:
        cells = landscape.heat_map(evaluations, 4).data[0]
        assert list(cells.y) == ["noop", "trial 3"]
        assert list(cells.x) == ["plain", "&lt;i&gt;jpeg&lt;/i&gt;", "median"]
        assert np.allclose(cells.z, [[0.1, 0.2, 0.3], [0.26, 0.36, 0.46]])
        assert "there are: 4, 8" in sentence(landscape.heat_map(evaluations, 5))

    def test_epsilon_groups_show_their_frame(self) -> None:
        frame = epsilon_curves(self.FRAME, "kind")
        chart = landscape.epsilon_groups(frame, "kind")
        lines = {t.name: list(t.y) for t in chart.data if t.mode == "lines+markers"}
        assert lines == {label(g): rows["error"].tolist() for g, rows in frame.groupby("group")}
        assert chart.layout.title.text.endswith("by kind")


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


@settings(deadline=None)
@given(st.text())
def test_label_leaves_no_markup(text: str) -> None:
    shown = label(text)
    assert "<" not in shown
    assert ">" not in shown
    assert shown.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == text
