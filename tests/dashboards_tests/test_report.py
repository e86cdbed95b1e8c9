"""A report is whole, loads nothing, shows the study's own numbers, and escapes what users wrote."""

import base64
import json
import re
from pathlib import Path

import optuna
import optuna_dashboard
import pandas as pd
import pytest
from optuna.study import Study

from dashboards.report import report_page, write_report
from dashboards.tables import (
    best_table,
    conditions_table,
    error_matrix,
    failures_table,
    provenance_table,
)
from study.errors import UsageError
from study.search.artifacts import read_artifact
from study.search.storage import open_storage
from study.search.studies import conditions_of, load_study
from study.search.summary import best_trials
from tests.dashboards_tests.conftest import FAILING, LINEAR, PICTURING, make_study
from tests.dashboards_tests.test_page import Reader, read

PNG = b"\x89PNG\r\n\x1a\n" + b"rest"
LOADING = {
    ("script", "src"),
    ("link", "href"),
    ("iframe", "src"),
    ("object", "data"),
    ("a", "href"),
}


def checked(text: str) -> Reader:
    """Read a report, having checked that it is well-formed and loads nothing."""
    reader = read(text)
    for name, attributes in reader.seen:
        assert not any((name, key) in LOADING for key in attributes)
        assert name != "img" or str(attributes["src"]).startswith("data:image/png;base64,")
        assert not any(key.startswith("on") for key in attributes)
    scripts = [a for name, a in reader.seen if name == "script"]
    assert sum(not a for a in scripts) == 2
    assert all(a == {"type": "application/json"} for a in scripts if a)
    for data in re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL):
        assert set(json.loads(data)) == {"data", "layout"}
    return reader


def headings(reader: Reader) -> list[str]:
    known = (
        "Best trials", "Error rate", "Pictures", "Trials", "Learning curves", "Parameters",
        "What was compared", "Provenance",
    )  # fmt: skip
    return [text for text in reader.text if text in known]


def test_of_a_real_study(linear_study: Study, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(linear_study, path, {"all <b> attacks": PNG})
    text = path.read_text(encoding="utf-8")
    reader = checked(text)
    assert headings(reader) == [
        "Best trials", "Error rate", "Pictures", "Trials", "Learning curves", "Parameters",
        "What was compared", "Provenance",
    ]  # fmt: skip
    for shown in (
        f"{linear_study.best_value:.4g}", "linear", "all <b> attacks", "best accuracy (larger is better)",
        LINEAR, "<i>jpeg</i>", "hinge", "optuna", optuna.__version__,
    ):  # fmt: skip
        assert shown in reader.text
    assert len(text) < 6e6
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(("trials", "said"), [(0, "No trial is complete."), (1, "at least two")])
def test_of_a_young_study(url: str, trials: int, said: str) -> None:
    text = report_page(make_study(url, "young", LINEAR, trials))
    reader = checked(text)
    assert headings(reader) == [
        "Best trials", "Trials", "Learning curves", "Parameters", "What was compared", "Provenance",
    ]  # fmt: skip
    assert said in text


def test_where_all_failed(url: str, tmp_path: Path) -> None:
    file = tmp_path / "failing.py"
    file.write_text(FAILING)
    study = make_study(url, "failing", f"{file}:Failing", 3, failures=3)
    reader = checked(report_page(study))
    text = "".join(reader.text)
    assert "3 failed" in reader.text
    assert "no luck at sql://me:***@host/db <b>" in text
    assert "secret" not in text
    assert "No trial is complete." in reader.text


def test_of_plain_optuna(plain_study: Study) -> None:
    text = report_page(plain_study)
    reader = checked(text)
    assert "best value (smaller is better)" in reader.text
    assert "A study of plain Optuna: it remembers no conditions." in reader.text
    assert f"{plain_study.best_value:.4g}" in reader.text
    assert "Curves of value" in text
    assert "No trial reported" not in text
    assert "x (log)" in text


def test_of_hostile_names(url: str) -> None:
    evil = "<script>alert(1)</script>\"'&"
    study = optuna.create_study(storage=url, study_name=evil)
    for number in range(3):
        trial = study.ask()
        trial.suggest_categorical(evil, (evil, "</script>", "<a href='http://x'>"))
        trial.suggest_float("<img src=x onerror=alert(1)>", 0, 1)
        trial.set_user_attr("failure", evil)
        trial.set_user_attr("ranks", evil)
        study.tell(trial, number)
    optuna_dashboard.save_note(study, f"note {evil}")
    reader = checked(report_page(load_study(url, evil), {evil: PNG}))
    assert reader.text.count(evil) >= 3
    assert f"note {evil}" in reader.text
    assert {name for name, _ in reader.seen}.isdisjoint({"a", "iframe", "link", "object"})


def test_shows_what_the_best_trial_left(url: str, tmp_path: Path) -> None:
    file = tmp_path / "picturing.py"
    file.write_text(PICTURING)
    study = make_study(url, "pictures", f"{file}:Picturing", 3)
    images = [a for name, a in checked(report_page(study)).seen if name == "img"]
    assert len(images) == 1
    assert str(images[0]["alt"]).startswith(f"Trial {study.best_trial.number}, rows: clean")
    left = base64.b64decode(str(images[0]["src"]).split(",")[1])
    assert left == PNG[:8] + str(study.best_value).encode()


def test_a_broken_picture_of_a_trial_is_left_out(url: str, tmp_path: Path) -> None:
    file = tmp_path / "picturing.py"
    file.write_text(PICTURING)
    study = make_study(url, "broken", f"{file}:Pretending", 1)
    assert read_artifact(study, 0, "examples.png") == b"<svg onload='alert(1)'>"
    assert "Pictures" not in headings(checked(report_page(study)))


@pytest.mark.parametrize("where", ["missing/report.html", "."])
def test_refuses_a_place_that_is_none(plain_study: Study, tmp_path: Path, where: str) -> None:
    with pytest.raises(UsageError, match="must be a file in a folder that exists"):
        write_report(plain_study, tmp_path / where)


def test_an_old_report_outlives_a_fault(
    plain_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UsageError, match=r"report .* cannot be written: No space left on device"):
        write_report(plain_study, path)
    assert path.read_text() == "old"
    assert list(tmp_path.glob("*report*")) == [path]


def test_refuses_a_picture_that_is_none(plain_study: Study, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(UsageError, match=r"picture 'mine' is no PNG; it begins with b'GIF89a'"):
        write_report(plain_study, path, {"mine": b"GIF89a"})
    assert path.read_text() == "old"


def test_refuses_several_values(url: str) -> None:
    optuna.create_study(storage=url, study_name="two", directions=["minimize", "maximize"])
    with pytest.raises(UsageError, match="study 'two' optimises 2 values; a report compares one"):
        report_page(optuna.load_study(storage=open_storage(url), study_name="two"))


class TestTables:
    def test_best_trials(self, linear_study: Study) -> None:
        frame = best_trials(linear_study, 5)
        cells = read(best_table(frame, "accuracy").text).text
        assert cells[:6] == ["trial", *[str(n) for n in frame["number"]]]
        assert cells[6:12] == ["accuracy", *[f"{v:.4g}" for v in frame["value"]]]
        assert "number" not in cells
        assert "lost" not in read(best_table(frame.assign(lost=None), "accuracy").text).text

    def test_errors(self, evaluations: pd.DataFrame) -> None:
        cells = read(error_matrix(evaluations.iloc[:-1]).text).text
        top = ["attack", "epsilon", "plain", "<i>jpeg</i>", "median", "mean L2", "images"]
        assert cells[:7] == top
        assert cells[7:12] == ["trial 3", "4", "26.0 %", " ", "22.0-30.0"]
        assert cells[-3:] == ["-", "1", "500"]

    def test_failures(self) -> None:
        frame = pd.DataFrame({"failure": ["b", None, "a" * 300, "b", float("nan")]})
        [made] = failures_table(frame)
        assert read(made.text).text == ["2 failed", "b", "1 failed", "a" * 240]
        assert failures_table(frame.iloc[1:2]) == []
        assert failures_table(pd.DataFrame({"value": [1.0]})) == []

    def test_conditions(self, linear_study: Study) -> None:
        conditions = conditions_of(linear_study)
        assert conditions is not None
        given = conditions.model_copy(
            update={"fixed": {"alpha": 0.5}, "settings": {"epsilons": [4, 8], "a": {"b": 1}}}
        )
        cells = read(conditions_table(given).text).text
        assert dict(zip(cells[::2], cells[1::2], strict=True)) == {
            "objective": LINEAR, "sampler": "tpe", "pruner": "none", "seed": "0",
            "alpha, fixed": "0.5", "epsilons": "4, 8", "a": '{"b": 1}',
        }  # fmt: skip

    def test_provenance(self, linear_study: Study) -> None:
        cells = read(provenance_table(linear_study).text).text
        found = dict(zip(cells[::2], cells[1::2], strict=True))
        host = linear_study.trials[0].user_attrs["provenance"]["machine"]["host"]
        assert found["trials"] == "6, 6 of them with provenance"
        assert (found["host"], found["ranks"]) == (host, "1")
        assert found["optuna"] == optuna.__version__

    def test_provenance_that_differs(self) -> None:
        study = optuna.create_study()
        for commit, diff in (("abc", ""), ("abc", ""), ("def", "12")):
            trial = study.ask()
            code = {"code": {"commit": commit, "diff": diff}}
            trial.set_user_attr("provenance", code)
            study.tell(trial, 1.0)
        study.ask()
        cells = read(provenance_table(study).text).text
        found = dict(zip(cells[::2], cells[1::2], strict=True))
        assert found["trials"] == "4, 3 of them with provenance"
        assert found["commit"] == "abc (2 trials), def, with local changes (12) (1 trials)"
        assert found["host"] == "-"

    def test_of_no_trials(self) -> None:
        cells = read(provenance_table(optuna.create_study()).text).text
        assert "0, 0 of them with provenance" in cells
