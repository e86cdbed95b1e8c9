"""The verbs as a user meets them; the dashboard is started for real."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import optuna
import pytest
from click.testing import CliRunner
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.study import Study

from dashboards.commands import dashboard, report
from dashboards.server import ArtifactFolders, artifact_folders, make_server
from study.errors import UsageError
from study.launch import run
from study.search.storage import open_storage
from tests.conftest import ROOT

SERVE = """
import sys
from dashboards.commands import dashboard
from study.launch import run
sys.exit(run(sys.argv[1:], dashboard))
"""


@pytest.fixture
def served(linear_study: Study, linear_url: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`jigsaw dashboard` in a process of its own, and its port."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, linear_url, "--port", "0"],
        stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stderr is not None
    with process:
        line = process.stderr.readline()
        try:
            assert line.startswith("http://127.0.0.1:"), line + process.stderr.read()
            yield process, int(line.split(":")[2].split("/")[0])
        finally:
            process.kill()


def get(port: int, path: str, host: str | None = None) -> tuple[int, str]:
    with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", path, headers={} if host is None else {"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_dashboard_serves_until_ctrl_c(served: tuple[subprocess.Popen[str], int]) -> None:
    process, port = served
    status, text = get(port, "/api/studies")
    assert status == 200
    assert [s["study_name"] for s in json.loads(text)["study_summaries"]] == ["linear"]
    status, text = get(port, "/dashboard")
    assert (status, "<html" in text) == (200, True)
    refused = get(port, "/api/studies", host="evil.example:80")
    assert refused == (403, "This dashboard answers to localhost only.\n")
    for host in (f"localhost:{port}", "[::1]:9", "127.0.0.1"):
        assert get(port, "/api/meta", host=host)[0] == 200
    for host in ("", "[", "127.0.0.1.evil.example"):
        assert get(port, "/api/meta", host=host)[0] == 403
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert process.stderr is not None
    assert process.stderr.read() == "dashboard ended\n"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"host": "0.0.0.0"},  # noqa: S104  it is refused
            "host '0.0.0.0' is open to others, and the dashboard asks for no password",
        ),
        ({"host": "example.org"}, "host 'example.org' is open to others"),
        ({"host": "::"}, "host '::' is open to others"),
    ],
)
def test_dashboard_is_for_this_machine(url: str, given: dict[str, str], said: str) -> None:
    storage = open_storage(url, create=True)
    with pytest.raises(UsageError) as caught:
        make_server(storage, [], **given)
    assert str(caught.value).startswith(said)


def test_dashboard_says_that_a_port_is_taken(url: str) -> None:
    storage = open_storage(url, create=True)
    with make_server(storage, [], port=0) as first, pytest.raises(UsageError) as caught:
        make_server(storage, [], port=first.server_port)
    assert str(caught.value).startswith(f"port {first.server_port} of 127.0.0.1 cannot be had (")
    assert str(caught.value).endswith("; choose another with --port")


@pytest.mark.parametrize(
    ("verb", "given", "code", "said"),
    [
        (dashboard, ["sqlite:///no.db"], 2, "storage file 'no.db' does not exist"),
        (dashboard, ["--artifacts", "no"], 2, "Directory 'no' does not exist"),
        (dashboard, ["--port", "70000"], 2, "70000 is not in the range"),
        (report, ["x", "--storage", "sqlite:///no.db"], 2, "storage file 'no.db' does not exist"),
        (report, ["x", "-o", "."], 2, "is a directory"),
        (report, [], 2, "Missing argument 'STUDY'"),
    ],
)
def test_wrong_commands(verb, given, code, said, tmp_path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    assert run(given, verb) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


def test_report_prints_its_path(linear_study: Study, linear_url: str, tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    done = CliRunner().invoke(report, ["linear", "--storage", linear_url, "--output", str(path)])
    assert (done.exit_code, done.stdout) == (0, f"{path}\n")
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_report_of_an_unknown_study(linear_study: Study, linear_url: str, capsys) -> None:  # type: ignore[no-untyped-def]
    assert run(["absent", "--storage", linear_url], report) == 2
    assert "study 'absent' is not in" in capsys.readouterr().err


class TestArtifacts:
    def test_folders_that_studies_remember(self, url: str, tmp_path: Path) -> None:
        for name, folder in (("a", "one"), ("b", "two"), ("c", "one"), ("d", "gone"), ("e", None)):
            study = optuna.create_study(storage=url, study_name=name)
            if folder:
                study.set_user_attr("artifacts", str(tmp_path / folder))
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        assert artifact_folders(open_storage(url)) == [tmp_path / "one", tmp_path / "two"]

    def test_several_folders_are_one_store(self, tmp_path: Path) -> None:
        folders = [tmp_path / "one", tmp_path / "two"]
        for folder in folders:
            folder.mkdir()
        (folders[1] / "id").write_bytes(b"second")
        both = ArtifactFolders([FileSystemArtifactStore(folder) for folder in folders])
        with both.open_reader("id") as stream:
            assert stream.read() == b"second"
        both.write("new", io.BytesIO(b"kept"))
        assert (folders[0] / "new").read_bytes() == b"kept"
        both.remove("id")
        assert not (folders[1] / "id").exists()
        for act in (both.open_reader, both.remove):
            with pytest.raises(ArtifactNotFound):
                act("id")
