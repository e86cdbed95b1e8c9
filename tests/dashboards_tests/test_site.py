"""Every address over every odd study: it answers, shows the frames' numbers, and lets no text become markup."""

import base64
import json
import re
import shutil
import sqlite3
from io import StringIO
from pathlib import Path
from shutil import copyfile
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import plotly.io
import pytest
from flask.testing import FlaskClient
from optuna.study import Study

from dashboards import compare
from dashboards.figures import FIGURES, TABLES
from dashboards.site import make_site
from dashboards.sources import open_sources
from study.search.frames import curves_frame, trials_frame
from tests.dashboards_tests.conftest import EVIL, ODD, make_study
from tests.dashboards_tests.test_page import read

STUDIES = ["0/linear", *[f"1/{name}" for name in ODD]]
PAGES = ("compare", "curves", "gallery", "changes", "jobs")


def query(*studies: str, **more: object) -> str:
    return urlencode({"study": studies, **more}, doseq=True)


def checked(text: str) -> str:
    """Return the text people see, having checked that the page is well-formed and runs no text."""
    reader = read(text)
    for name, attributes in reader.seen:
        assert not any(key.startswith("on") for key in attributes)
        assert name not in ("iframe", "object", "img") or str(attributes["src"]).startswith(
            "/picture/"
        )
        for key in ("href", "src", "action"):
            assert str(attributes.get(key, "/")).startswith(("/", "#", "data:,"))
    scripts = [a for name, a in reader.seen if name == "script"]
    assert all(str(a["src"]).startswith("/assets/") for a in scripts)
    labelled = {"select", "input"}
    for name, attributes in reader.seen:
        if name in labelled and attributes.get("type") != "hidden":
            assert "name" in attributes
    return "".join(reader.text)


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("page", PAGES)
def test_pages(client: FlaskClient, page: str, study: str) -> None:
    answer = client.get(f"/{page}?{query(study)}")
    assert answer.status_code == 200, answer.text[-300:]
    text = checked(answer.text)
    assert study.partition("/")[2] in text
    assert "default-src 'none'; script-src 'self'" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("name", FIGURES)
def test_figures(client: FlaskClient, name: str, study: str) -> None:
    answer = client.get(f"/figure/{name}.json?{query(study, x='x' if name == 'slice' else '')}")
    assert answer.status_code == 200, answer.text[-300:]
    figure = plotly.io.from_json(answer.text)
    assert figure.data or figure.layout.annotations[0].text.strip().endswith(".")
    assert "<script" not in answer.text
    assert "<img" not in answer.text


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("name", TABLES)
def test_tables(client: FlaskClient, name: str, study: str) -> None:
    answer = client.get(f"/table/{name}.csv?{query(study)}")
    assert answer.status_code == 200, answer.text[-300:]
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{name}.csv"'
    pd.read_csv(StringIO(answer.text))


@pytest.mark.parametrize("study", ["0/linear", f"1/{EVIL}", "1/empty"])
@pytest.mark.parametrize("name", TABLES)
def test_tables_for_papers(client: FlaskClient, name: str, study: str) -> None:
    text = client.get(f"/table/{name}.tex?{query(study)}").text
    assert text.startswith("\\begin{tabular}")
    assert not re.search(r"(?<!\\)[%#]", text)


@pytest.mark.parametrize("study", STUDIES)
def test_increments_begin_with_a_cursor(client: FlaskClient, study: str) -> None:
    first = client.get(f"/increments?{query(study)}").get_json()
    assert first["points"] == []
    again = client.get(f"/increments?{query(study, cursor=first['cursor'])}").get_json()
    assert again["points"] == []
    assert json.loads(again["cursor"]) == json.loads(first["cursor"])


def test_all_studies_are_listed(client: FlaskClient, linear_study: Study) -> None:
    text = checked(client.get("/").text)
    for name in ("linear", *ODD):
        assert name in text
    assert f"{linear_study.best_value:.4g}" in text


def test_studies_of_two_databases_together(client: FlaskClient) -> None:
    both = query("0/linear", "1/wild")
    text = checked(client.get(f"/compare?{both}").text)
    assert "By study" in text
    frame = pd.read_csv(StringIO(client.get(f"/table/trials.csv?{both}").text))
    assert frame["study"].value_counts().to_dict() == {"0/linear": 6, "1/wild": 4}
    answer = client.get(f"/compare?{query('0/linear', '1/one')}")
    assert answer.status_code == 400
    assert "larger values are better in 0/linear, and worse in the others" in answer.text


@pytest.mark.parametrize("name", FIGURES)
def test_one_name_for_numbers_and_words(client: FlaskClient, name: str) -> None:
    where = query("1/mixed", "1/words", "1/renamed", x="x")
    assert client.get(f"/figure/{name}.json?{where}").status_code == 200
    assert client.get(f"/compare?{where}&group=x").status_code == 200


class TestNumbers:
    def test_the_tables_are_the_frames(self, client: FlaskClient, linear_study: Study) -> None:
        found = pd.read_csv(StringIO(client.get(f"/table/trials.csv?{query('0/linear')}").text))
        frame = trials_frame(linear_study).sort_values("value", ascending=False, kind="stable")
        assert found["number"].tolist() == frame["number"].tolist()
        for name in ("value", "alpha", "eta0"):
            assert found[name].to_numpy() == pytest.approx(frame[name].to_numpy(), nan_ok=True)
        curves = pd.read_csv(StringIO(client.get(f"/table/curves.csv?{query('0/linear')}").text))
        assert sorted(curves["value"]) == pytest.approx(sorted(curves_frame(linear_study)["value"]))

    def test_the_page_shows_them_best_first(self, client: FlaskClient, linear_study: Study) -> None:
        text = client.get(f"/compare?{query('0/linear')}").text
        rows = re.findall(r'data-trial="0/linear:(\d+)".*?<td>complete</td><td>([^<]+)</td>', text)
        frame = trials_frame(linear_study).sort_values("value", ascending=False, kind="stable")
        assert [int(n) for n, _ in rows] == frame["number"].tolist()
        assert [v for _, v in rows] == [f"{v:.4g}" for v in frame["value"]]

    def test_the_groups_are_those_of_compare(
        self, client: FlaskClient, linear_study: Study
    ) -> None:
        found = pd.read_csv(
            StringIO(client.get(f"/table/groups.csv?{query('0/linear', group='loss')}").text)
        )
        frame = compare.group_table(compare.trials(linear_study), "loss")
        pd.testing.assert_frame_equal(found, frame, check_dtype=False)

    def test_figures_are_drawn_of_them(self, client: FlaskClient, linear_study: Study) -> None:
        figure = plotly.io.from_json(client.get(f"/figure/history.json?{query('0/linear')}").text)
        sent = figure.data[0].y
        drawn = np.frombuffer(base64.b64decode(sent["bdata"]), sent["dtype"])
        assert drawn.tolist() == trials_frame(linear_study)["value"].tolist()

    def test_a_program_draws_the_same(self, client: FlaskClient) -> None:
        where = query("0/linear")
        scope: dict[str, object] = {"__name__": "taken"}
        exec(client.get(f"/figure/history.py?{where}").text, scope)  # noqa: S102  it is what a user runs
        figure = plotly.io.from_json(client.get(f"/figure/history.json?{where}").text)
        assert scope["figure"].data == figure.data  # type: ignore[attr-defined]

    @pytest.mark.parametrize("name", FIGURES)
    def test_a_program_of_hostile_text_is_still_one(self, client: FlaskClient, name: str) -> None:
        compile(client.get(f"/figure/{name}.py?{query('1/' + EVIL)}").text, "taken.py", "exec")


class TestTheAddress:
    def test_filters_groups_and_columns(self, client: FlaskClient, linear_study: Study) -> None:
        where = query("0/linear", filter="loss=hinge", column="alpha", group="loss", sort="alpha")
        frame = trials_frame(linear_study)
        hinge = frame[frame["loss"] == "hinge"].sort_values("alpha")
        found = pd.read_csv(StringIO(client.get(f"/table/trials.csv?{where}").text))
        assert found["number"].tolist() == hinge["number"].tolist()
        text = client.get(f"/compare?{where}").text
        assert [int(n) for n in re.findall(r'data-trial="0/linear:(\d+)"', text)] == hinge[
            "number"
        ].tolist()
        assert 'value="loss=hinge"' in text
        assert 'value="loss" selected' in text

    @pytest.mark.parametrize(
        ("path", "status", "said"),
        [
            ("/compare?study=0/absent", 400, "study '0/absent' is not here; there are: 0/linear"),
            ("/compare?study=0/linear&filter=loss", 400, "filter 'loss' is not COLUMN SIGN VALUE"),
            (
                "/compare?study=0/linear&filter=no=1",
                400,
                "filter 'no=1': no column 'no'; there are:",
            ),
            (
                "/compare?study=0/linear&filter=loss>1",
                400,
                "filter 'loss>1' orders what is no number",
            ),
            ("/compare?study=0/linear&group=no", 400, "group 'no' is no column; there are:"),
            (
                "/compare?study=0/linear&page=0",
                400,
                "the address asks for what cannot be shown: page",
            ),
            ("/curves?study=0/linear&smooth=1", 400, "smooth"),
            (
                "/curves?study=0/linear&trial=0/linear:99",
                400,
                "trial '0/linear:99' is not among those shown",
            ),
            ("/figure/no.json?study=0/linear", 404, "there is no 'no'; there are: contour"),
            ("/table/no.csv?study=0/linear", 404, "there is no 'no'; there are: changes"),
            (
                "/table/trials.xls?study=0/linear",
                404,
                "tables come as csv, parquet or tex, not 'xls'",
            ),
            ("/increments?study=0/linear&cursor=x", 400, "cursor 'x' is none"),
            ("/increments?study=0/linear&cursor=[1]", 400, "cursor '[1]' is none"),
            ("/picture/0/none?study=0/linear", 404, "this trial left no such picture"),
            ("/nowhere", 404, "not found"),
        ],
    )
    def test_what_cannot_be_shown_is_one_sentence(
        self, client: FlaskClient, path: str, status: int, said: str
    ) -> None:
        answer = client.get(path)
        assert answer.status_code == status
        if path.startswith(("/figure", "/increments")):
            assert said in answer.get_json()["error"]
        else:
            assert said in checked(answer.text)

    def test_parquet_needs_pyarrow(
        self, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        answer = client.get(f"/table/trials.parquet?{query('0/linear')}")
        assert answer.status_code == 400
        assert "Parquet needs pyarrow, which is not installed" in answer.text

    def test_pdf_needs_a_browser(
        self, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", "")
        answer = client.get(f"/figure/history.pdf?{query('0/linear')}")
        assert answer.status_code == 400
        assert "PDF is printed by Chromium or Chrome, and this machine has none" in answer.text

    @pytest.mark.slow
    def test_pdf_holds_the_chart(self, client: FlaskClient) -> None:
        if shutil.which("chromium") is None:
            pytest.skip("no chromium on this machine: apt-get install chromium")
        answer = client.get(f"/figure/history.pdf?{query('0/linear')}")
        assert (answer.mimetype, answer.data[:5]) == ("application/pdf", b"%PDF-")
        assert answer.data.count(b"/Type /Page\n") == 1
        assert len(answer.data) > 8000  # fonts and lines: an empty page has about a thousand

    def test_nothing_is_written(self, client: FlaskClient) -> None:
        for method in ("post", "put", "delete", "patch"):
            assert getattr(client, method)("/compare").status_code == 405

    @pytest.mark.parametrize(
        ("referer", "leads"),
        [
            ("", "/"),
            ("http://localhost/dashboard/", "/"),
            ("http://localhost/dashboard/studies/999", "/"),
            ("http://localhost/dashboard/studies/x", "/"),
            ("http://localhost/dashboard/studies/1/analytics", "/compare?study=0%2Flinear"),
            ("http://localhost/dashboard/studies/1/trials?numbers=2,3",
             "/curves?study=0%2Flinear&trial=0%2Flinear%3A2&trial=0%2Flinear%3A3"),
        ],
    )  # fmt: skip
    def test_from_optuna_dashboard_to_the_same(
        self, client: FlaskClient, referer: str, leads: str
    ) -> None:
        assert client.get("/from-optuna", headers={"Referer": referer}).headers["Location"] == leads

    def test_to_optuna_dashboard(self, client: FlaskClient) -> None:
        assert 'href="/dashboard/studies/1"' in client.get(f"/compare?{query('0/linear')}").text
        shown = client.get(f"/curves?{query('0/linear', trial=['0/linear:2', '0/linear:3'])}").text
        assert 'href="/dashboard/studies/1/trials?numbers=2,3"' in shown
        # The other database is not the one optuna-dashboard shows.
        assert "Optuna Dashboard" not in client.get(f"/compare?{query('1/one')}").text


def test_a_database_that_goes_away_comes_back(
    linear_url: str, linear_study: Study, tmp_path: Path
) -> None:
    source, copy = Path(linear_url.removeprefix("sqlite:///")), tmp_path / "copy.db"
    with sqlite3.connect(source) as old:
        old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    copyfile(source, copy)
    client = make_site(open_sources([f"sqlite:///{copy}"])).test_client()
    pages = [
        f"/compare?{query('0/linear')}",
        f"/figure/history.json?{query('0/linear')}",
        f"/increments?{query('0/linear')}",
    ]
    assert [client.get(page).status_code for page in pages] == [200] * 3
    kept = copy.rename(tmp_path / "away.db")
    for page in pages:
        answer = client.get(page)
        assert answer.status_code == 503
        assert "does not answer (the file is gone); trying again" in answer.text
    assert not copy.exists()
    copy.write_bytes(b"no database at all" * 1000)
    assert [client.get(page).status_code for page in pages] == [503] * 3
    kept.replace(copy)
    assert [client.get(page).status_code for page in pages] == [200] * 3


def test_another_study_in_the_place_of_one(url: str) -> None:
    import optuna

    from tests.dashboards_tests.conftest import LINEAR

    make_study(url, "s", LINEAR, 2)
    client = make_site(open_sources([url])).test_client()
    assert len(pd.read_csv(StringIO(client.get(f"/table/trials.csv?{query('0/s')}").text))) == 2
    optuna.delete_study(storage=url, study_name="s")
    optuna.create_study(storage=url, study_name="other").add_trial(
        optuna.trial.create_trial(value=7.0)
    )
    answer = client.get(f"/table/trials.csv?{query('0/other')}")
    assert pd.read_csv(StringIO(answer.text))["value"].tolist() == [7.0]
    assert client.get(f"/compare?{query('0/s')}").status_code == 400
