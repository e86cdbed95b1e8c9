"""Commands from the Jobs page: the command line's door, and nobody else's page."""

import re
from collections.abc import Iterator
from typing import get_args

import pytest
from werkzeug.test import Client, TestResponse

from dashboards.server import guarded, side_by_side
from dashboards.site import make_site
from dashboards.sources import open_sources
from study.control import control
from study.create import create
from study.launch import run
from study.mailbox import Mailbox, read_commands
from study.search.joining import open_session
from study.search.session import Session
from study.search.storage import open_storage
from study.steering import Verb
from study.trial import Outcome
from tests.study_tests.tiny import HERE


@pytest.fixture
def running(url: str) -> Iterator[Session]:
    """Trial 0 of study `s` is pruned, trial 1 runs and hears commands."""
    assert run(["s", "--objective", f"{HERE}:Settable", "--storage", url], create) == 0
    session = open_session(url, "s", {})
    session.ask({})
    session.finish(Outcome("pruned"))
    session.ask({})
    yield session
    session.abandon("over")


@pytest.fixture
def visitor(running: Session, url: str) -> Client:
    """Somebody at the dashboard as it is served, guard included."""
    site = make_site(open_sources([url]))
    return Client(guarded(side_by_side(site, site), ""))


def token_of(visitor: Client) -> str:
    found = re.search(r'data-token="([^"]+)"', visitor.get("/jobs").text)
    assert found is not None
    return found[1]


def send(visitor: Client, headers: dict[str, str] | None = None, **given: str) -> TestResponse:
    shown = {"X-Jigsaw-Token": token_of(visitor)} | (headers or {})
    return visitor.post("/commands", json=given, headers=shown)


def queued(url: str) -> list[str]:
    engine = open_storage(url).engine
    uids = [t.user_attrs["uid"] for s in (1,) for t in open_storage(url).get_all_trials(s)]
    return read_commands(engine, uids)["command"].tolist()


def test_the_page_shows_what_trials_printed_last(
    visitor: Client, running: Session, url: str
) -> None:
    running.keep_log("batch 3 of 9 <b>")
    page = visitor.get("/jobs?study=0/s").text
    assert "<summary>Trial 1, log</summary><pre" in page
    assert "batch 3 of 9 &lt;b&gt;</pre>" in page
    running.settle("lost", "Killed")
    after = make_site(open_sources([url])).test_client().get("/jobs?study=0/s").text
    assert "Killed</pre>" in after
    assert "batch 3" not in after


def test_the_page_offers_every_command_and_running_trials_only(visitor: Client) -> None:
    page = visitor.get("/jobs?study=0/s").text
    for verb in get_args(Verb):
        assert f'<option value="{verb}">' in page
    assert re.findall(r'<option value="(0/s:\d+)"', page) == ["0/s:1"]


def test_a_command_reaches_the_trial_and_its_answer_the_page(
    visitor: Client, running: Session
) -> None:
    answer = send(visitor, trial="0/s:1", verb="set", values="speed=1", at_epoch="2")
    assert answer.get_json()["said"].startswith("queued as command 1 of trial 1;")
    assert isinstance(running.mailbox, Mailbox)
    (command,) = running.mailbox.poll()
    assert (str(command), command.due, command.values["speed"]) == ("set speed=1.0", "epoch 2", 1.0)
    running.mailbox.answer(command, "from iteration 7 on", done=True)
    page = visitor.get("/jobs?study=0/s").text
    assert "<td>set speed=1.0</td><td>epoch 2</td><td>done</td><td>from iteration 7 on</td>" in page


MISTAKES: list[tuple[dict[str, str], list[str]]] = [
    ({"trial": "0", "verb": "stop"}, ["0", "stop"]),
    ({"trial": "7", "verb": "stop"}, ["7", "stop"]),
    ({"trial": "last", "verb": "stop"}, ["last", "stop"]),
    ({"trial": "1", "verb": "pause"}, ["1", "pause"]),
    ({"trial": "1", "verb": "set"}, ["1", "set"]),
    ({"trial": "1", "verb": "set", "values": "speed"}, ["1", "set", "speed"]),
    ({"trial": "1", "verb": "set", "values": "speed=2.0"}, ["1", "set", "speed=2.0"]),
    ({"trial": "1", "verb": "set", "values": "lr=1 speed=1"}, ["1", "set", "lr=1", "speed=1"]),
    ({"trial": "1", "verb": "stop", "values": "<b>=1"}, ["1", "stop", "<b>=1"]),
    ({"trial": "1", "verb": "stop", "at_iteration": "soon"}, ["1", "stop", "--at-iteration", "soon"]),
    ({"trial": "1", "verb": "stop", "at_iteration": "-1"}, ["1", "stop", "--at-iteration", "-1"]),
    ({"trial": "1", "verb": "stop", "at_epoch": "-0.5"}, ["1", "stop", "--at-epoch", "-0.5"]),
    ({"trial": "1", "verb": "stop", "at_iteration": "1", "at_epoch": "1"},
     ["1", "stop", "--at-iteration", "1", "--at-epoch", "1"]),
]  # fmt: skip


def test_mistakes_are_answered_as_on_the_command_line(
    visitor: Client, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, arguments in MISTAKES:
        answer = send(visitor, **{**given, "trial": f"0/s:{given['trial']}"})
        assert run(["s", *arguments, "--storage", url], control) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert (answer.status_code, answer.get_json()["error"]) == (
            400,
            said.removeprefix("jigsaw: ").removeprefix("Error: "),
        )
    assert queued(url) == []


MISSING: list[tuple[dict[str, str], str]] = [
    ({"verb": "stop"}, "no trial is chosen; commands reach running trials"),
    ({"trial": "0/s:1"}, "no command is chosen; allowed: set, "),
    ({"trial": "0/<i>:1", "verb": "stop"}, "study '0/<i>' is not here; there are: 0/s"),
]


def test_what_is_missing_is_said(visitor: Client) -> None:
    for given, said in MISSING:
        answer = send(visitor, **given)
        assert (answer.status_code, answer.mimetype) == (400, "application/json")
        assert answer.get_json()["error"].startswith(said)


STRANGERS = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Host": "evil.example"},
    {"X-Jigsaw-Token": ""},
    {"X-Jigsaw-Token": "of another process"},
    {"X-Jigsaw-Token": "caf\xe9"},
]


def test_other_sites_command_nothing(visitor: Client, url: str) -> None:
    for headers in STRANGERS:
        assert send(visitor, headers, trial="0/s:1", verb="stop").status_code == 403, headers
    assert queued(url) == []
    mine = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert send(visitor, mine, trial="0/s:1", verb="stop").status_code == 200
    assert queued(url) == ["stop"]


def test_a_command_is_json_and_posted(visitor: Client, url: str) -> None:
    shown = {"X-Jigsaw-Token": token_of(visitor)}
    form = visitor.post("/commands", data={"trial": "0/s:1", "verb": "stop"}, headers=shown)
    lists = [visitor.post("/commands", json=j, headers=shown) for j in ([1], {"trial": 1})]
    assert [a.status_code for a in (form, *lists)] == [400] * 3
    assert "a command is a JSON object of texts" in form.get_json()["error"]
    read = visitor.get("/commands?trial=0/s:1&verb=stop", headers=shown)
    assert read.status_code == 405
    assert queued(url) == []
