"""A URL may lie in a file, so that no command line holds its password."""

from pathlib import Path

import pytest
from sqlalchemy import make_url

from study.errors import UsageError
from study.search.storage import open_storage, printable
from study.search.studies import artifact_folder
from study.urls import place_of, resolve_url
from tests.study_tests.conftest import Jigsaw
from tests.study_tests.tiny import HERE


def kept(folder: Path, text: str | bytes, mode: int = 0o600) -> str:
    path = folder / "url"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return f"file:{path}"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
def test_a_file_stands_for_its_url(tmp_path: Path, mode: int) -> None:
    text = kept(tmp_path, "postgresql://u:pa55@h/db\n", mode)
    assert resolve_url(text) == "postgresql://u:pa55@h/db"
    assert printable(text).replace("%2A", "*") == "postgresql+psycopg://u:***@h/db"
    assert resolve_url("sqlite:///x.db") == "sqlite:///x.db"


def test_a_file_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    kept(tmp_path, f"sqlite:///{tmp_path}/runs/s.db")
    assert artifact_folder("file:~/url") == tmp_path / "runs" / "artifacts"


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        ("", 0o600, "^storage file '.*' holds 0 words; expected one URL$"),
        ("sqlite:///a.db sqlite:///b.db", 0o600, "^storage file '.*' holds 2 words; expected one URL$"),
        ("sqlite:///a.db", 0o644, "^storage file '.*' can be read by every user of this machine: chmod 600 /"),
        (b"\xff", 0o600, "^storage file '.*' cannot be read: it is no text; it holds a database URL$"),
    ],
)  # fmt: skip
def test_a_file_that_is_refused(tmp_path: Path, text: str, mode: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_storage(kept(tmp_path, text, mode))


def test_a_file_that_is_absent() -> None:
    with pytest.raises(UsageError, match=r"^storage file 'no/such' cannot be read: No such file"):
        resolve_url("file:no/such")


def test_verbs_take_it_wherever_they_take_a_url(
    jigsaw: Jigsaw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(tmp_path, "sqlite:///deep/s.db")
    storage = ("--storage", "file:url")
    assert jigsaw("create", "s", "--objective", f"{HERE}:Tiny", *storage)[0] == 0
    assert jigsaw("worker", "s", "--n-trials", "1", *storage)[0] == 0
    assert jigsaw("create", "t", "--from", "s@file:url")[0] == 0
    assert jigsaw("doctor", "file:url")[0] == 0
    monkeypatch.setenv("OPTUNA_STORAGE", "file:url")
    assert " s " in jigsaw("status")[1]
    assert any(Path("deep").iterdir())


@pytest.mark.parametrize(
    ("way", "url", "warned"),
    [
        ("option", "postgresql://u:pa55@127.0.0.1:1/db", True),
        ("option", "postgresql://u@127.0.0.1:1/db?password=pa55", True),
        ("option", "postgresql://u@127.0.0.1:1/db", False),
        ("option", "sqlite:///no.db", False),
        ("option", "runs.db", False),
        ("environment", "postgresql://u:pa55@127.0.0.1:1/db", False),
    ],
)
def test_a_password_on_a_command_line_is_warned_of(
    way: str, url: str, warned: bool, jigsaw: Jigsaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "environment":
        monkeypatch.setenv("OPTUNA_STORAGE", url)
    code, _, err = jigsaw("status", *(("--storage", url) if way == "option" else ()))
    assert code == 2
    assert err.startswith("warning: every user of this machine can read the password") == warned
    assert "pa55" not in err


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("sqlite:///a.db", "sqlite:///{here}/a.db"),
        ("sqlite:///sub/../a.db", "sqlite:///{here}/a.db"),
        ("postgresql+psycopg://u:pa55@h:5432/db?host=/run&password=x", "postgresql://h:5432/db?host=%2Frun"),
        ("mysql+pymysql://other@h/db", "mysql://h/db"),
    ],
)  # fmt: skip
def test_a_database_is_where_it_is_whoever_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert place_of(make_url(url)) == place.format(here=tmp_path)
