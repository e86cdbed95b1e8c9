"""The verbs as a user meets them; the dashboard is started for real."""

import io
import json
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import optuna
import pytest
from click.testing import CliRunner
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.study import Study

from dashboards.commands import dashboard, report
from dashboards.server import ArtifactFolders, artifact_folders, guarded, make_server
from study.errors import UsageError
from study.launch import run
from study.search.storage import open_storage
from tests.dashboards_tests.browser import served


def get(port: int, path: str, host: str | None = None) -> tuple[int, str]:
    with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", path, headers={} if host is None else {"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_dashboard_serves_until_ctrl_c(linear_study: Study, linear_url: str) -> None:
    with served([linear_url]) as (process, address):
        check_served(process, int(address.rsplit(":", 1)[1]))


def check_served(process: "subprocess.Popen[str]", port: int) -> None:
    status, text = get(port, "/api/studies")
    assert status == 200
    assert [s["study_name"] for s in json.loads(text)["study_summaries"]] == ["linear"]
    status, text = get(port, "/dashboard")
    assert (status, "<html" in text) == (200, True)
    assert '<a href="/from-optuna"' in text
    status, text = get(port, "/compare?study=0/linear")
    assert (status, 'href="/dashboard/studies/1"' in text) == (200, True)
    refused = get(port, "/api/studies", host="evil.example:80")
    assert refused == (403, "This dashboard answers to localhost only.\n")
    for host in (f"localhost:{port}", "[::1]:9", "127.0.0.1"):
        assert get(port, "/api/meta", host=host)[0] == 200
    for host in ("", "[", "127.0.0.1.evil.example"):
        assert get(port, "/api/meta", host=host)[0] == 403
    with ThreadPoolExecutor(32) as visitors:
        # More at once than there are threads: those that wait are no news.
        answers = visitors.map(lambda _: get(port, "/api/studies")[0], range(32))
        assert set(answers) == {200}
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert process.stderr is not None
    assert process.stderr.read() == "dashboard ended\n"


def answer(
    token: str, method: str = "GET", path: str = "/", **headers: str
) -> tuple[str, dict[str, str], bytes]:
    """Ask a guarded application that answers `passed`."""
    said: list[Any] = []

    def application(environ: dict[str, Any], start: Any) -> list[bytes]:
        start("200 OK", [])
        return [b"passed"]

    path, _, query = path.partition("?")
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "HTTP_HOST": "localhost:1",
    }
    environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    body = b"".join(guarded(application, token)(environ, lambda *start: said.extend(start)))
    return said[0], dict(said[1]), body


class TestGuard:
    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({}, "200 OK"),
            ({"origin": "http://localhost:1", "sec_fetch_site": "same-origin"}, "200 OK"),
            ({"origin": "http://evil.example"}, "403 Forbidden"),
            ({"origin": "null"}, "403 Forbidden"),
            ({"origin": "http://localhost:2"}, "403 Forbidden"),
            ({"sec_fetch_site": "cross-site"}, "403 Forbidden"),
            ({"sec_fetch_site": "same-site"}, "403 Forbidden"),
            ({"host": "evil.example"}, "403 Forbidden"),
        ],
    )
    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
    def test_other_sites_change_nothing(
        self, method: str, headers: dict[str, str], status: str
    ) -> None:
        assert answer("", method, **headers)[0] == status

    def test_links_from_other_sites_may_be_followed(self) -> None:
        assert answer("", sec_fetch_site="cross-site")[2] == b"passed"

    @pytest.mark.parametrize(
        ("path", "headers"),
        [
            ("/", {}),
            ("/api/studies", {}),
            ("/?token=wrong", {}),
            ("/?token=", {}),
            ("/", {"cookie": "jigsaw_token=wrong"}),
            ("/", {"cookie": "jigsaw_token="}),
            ("/", {"cookie": "other=secret"}),
        ],
    )
    def test_without_the_token_nothing_is_shown(self, path: str, headers: dict[str, str]) -> None:
        status, _, body = answer("secret", path=path, **headers)
        assert (status, b"wants its token" in body) == ("403 Forbidden", True)

    def test_the_token_moves_from_the_address_to_a_cookie(self) -> None:
        status, headers, _ = answer("secret", path="/compare?token=secret", host="node7:8080")
        assert (status, headers["Location"]) == ("303 See Other", "/compare")
        assert "HttpOnly; SameSite=Strict" in headers["Set-Cookie"]
        cookie = headers["Set-Cookie"].split(";")[0]
        assert answer("secret", path="/compare", cookie=cookie, host="node7:8080")[2] == b"passed"
        refused = answer(
            "secret", "POST", cookie=cookie, host="node7:8080", origin="http://evil.example"
        )
        assert refused[0] == "403 Forbidden"


def test_an_open_address_asks_for_a_token(url: str) -> None:
    open_storage(url, create=True)
    server = make_server([url], host="0.0.0.0", port=0)  # noqa: S104
    try:
        assert len(server.token) >= 32
        assert server.url == f"http://0.0.0.0:{server.port}/?token={server.token}"
    finally:
        server.close()


def test_dashboard_says_that_a_port_is_taken(url: str) -> None:
    open_storage(url, create=True)
    first = make_server([url], port=0)
    try:
        with pytest.raises(UsageError) as caught:
            make_server([url], port=first.port)
    finally:
        first.close()
    assert str(caught.value).startswith(f"port {first.port} of 127.0.0.1 cannot be had (")
    assert str(caught.value).endswith("; choose another with --port")


def test_dashboard_says_that_a_host_is_none(url: str) -> None:
    open_storage(url, create=True)
    with pytest.raises(UsageError, match="port 0 of no such host cannot be had"):
        make_server([url], host="no such host", port=0)


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


def test_report_for_an_appendix(
    linear_study: Study, linear_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(report, ["linear", "--storage", linear_url, "--format", "md"])
    assert (done.exit_code, done.stdout) == (0, "report.md\n")
    text = Path("report.md").read_text(encoding="utf-8")
    assert text.startswith("# linear\n")
    for heading in ("Best trials", "Error rates", "Conditions"):
        assert f"## {heading}\n\n| " in text
    assert f"| {linear_study.best_trial.number} | {linear_study.best_value:.4g} |" in text
    assert "&lt;i&gt;jpeg&lt;/i&gt;" in text
    widths = {
        line.replace("\\|", "").count("|")
        for line in text.split("## Best trials")[1].split("##")[0].split("\n")
        if line
    }
    assert len(widths) == 1


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
