import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import study.__main__
from study.commands import jigsaw as verbs
from study.errors import DataError, JigsawError, TrialInterrupted, UsageError
from study.launch import run
from study.search.studies import conditions_of, load_study
from tests.study_tests.conftest import Jigsaw
from tests.study_tests.tiny import HERE

ROOT = Path(__file__).resolve().parents[2]
TINY = f"{HERE}:Tiny"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database where study `s` has run three trials: made once, copied often."""
    folder = tmp_path_factory.mktemp("example")
    storage = ("--storage", f"sqlite:///{folder}/jigsaw.db")
    for verb in (
        ("create", "s", "--objective", TINY, "--sampler", "random", "--seed", "1"),
        ("worker", "s", "--n-trials", "3"),
    ):
        assert run([*verb, *storage], verbs) == 0
    return folder


@pytest.fixture
def ran(jigsaw: Jigsaw, example: Path, tmp_path: Path) -> Jigsaw:
    """`jigsaw` in a folder where study `s` has run three trials."""
    for path in example.glob("jigsaw.db*"):
        shutil.copy(path, tmp_path)
    return jigsaw


def whole() -> click.Group:
    found: list[click.Group] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study.__main__, "launch", lambda arguments, command: found.append(command))
        study.__main__.main()
    return found[0]


VERBS = [
    "attack", "best", "control", "create", "dashboard", "demo", "doctor", "enqueue", "environment", "evaluate",
    "export", "export-torch", "images", "launch", "package", "report", "space", "status", "train", "worker",
]  # fmt: skip


def test_the_verbs() -> None:
    assert whole().list_commands(click.Context(whole())) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_and_every_option_has_help(verb: str, jigsaw: Jigsaw) -> None:
    command = whole().get_command(click.Context(whole()), verb)
    assert command is not None
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert [option.name for option in options if not option.help] == []
    code, out, err = jigsaw(verb, "--help")
    assert (code, err) == (0, "")
    assert str(command.help).splitlines()[0].split(".")[0][:40] in out
    assert all(option.opts[0] in out for option in options)


def test_help_lists_every_verb(jigsaw: Jigsaw) -> None:
    code, out, _ = jigsaw("-h")
    assert code == 0
    assert all(f"  {verb} " in out for verb in VERBS)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (None, 0, ""),
        (UsageError("x is 3; allowed: 1, 2"), 2, "jigsaw: x is 3; allowed: 1, 2\n"),
        (DataError("no data"), 2, "jigsaw: no data\n"),
        (JigsawError("it failed"), 1, "jigsaw: it failed\n"),
        (TrialInterrupted("stopped"), 130, "jigsaw: stopped\n"),
        (KeyboardInterrupt(), 130, ""),
        (click.exceptions.Abort(), 130, ""),
    ],
)
def test_exit_codes(error: BaseException | None, code: int, text: str, capsys: Any) -> None:
    @click.command()
    def verb() -> None:
        if error is not None:
            raise error

    assert run([], verb) == code
    assert capsys.readouterr().err.strip("\n") == text.strip("\n")


@pytest.mark.parametrize("error", [ZeroDivisionError(), SystemExit(0)])
def test_a_fault_of_ours_keeps_its_traceback(error: BaseException) -> None:
    @click.command()
    def verb() -> None:
        raise error

    with pytest.raises(type(error)):
        run([], verb)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("create", "Missing argument 'STUDY'"),
        ("export", "Missing argument 'STUDY'"),
        ("worker", "which study? jigsaw worker STUDY"),
        ("nonsense", "No such command 'nonsense'"),
        ("best s --top 0", "0 is not in the range x>=1"),
        ("create s --seed -1", "-1 is not in the range"),
        ("best s", "storage file 'jigsaw.db' does not exist (looked in "),
        ("worker s --n-trials 1", "storage file 'jigsaw.db' does not exist (looked in "),
        ("status --storage runs.db", "storage is not a database URL; expected one such as sqlite:///"),
        ("space --objective nothing", "objective 'nothing': expected package.module:Name or path/to/file.py:Name"),
        (f"create s --objective {TINY} --set scale=20", "scale is 20; allowed: above 0, at most 10"),
        (f"create s --objective {TINY} --set scale", "'scale' is not NAME=VALUE"),
        (f"create s --objective {TINY} --set =3", "'=3' is not NAME=VALUE"),
        (f"create s --objective {TINY} --set names=[1", "--set names: '[1' is no JSON: "),
        (f"create s --objective {TINY} --fix knid=a", "--fix knid: no such parameter; near it: kind"),
        (f"create s --objective {TINY} --sampler tpo", "sampler 'tpo' is unknown; allowed: tpe, "),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_on_stderr(
    arguments: str, message: str, jigsaw: Jigsaw, tmp_path: Path
) -> None:
    code, out, err = jigsaw(*arguments.split())
    assert (code, out) == (2, "")
    # Click says first how the verb is used.
    assert message in err.strip().splitlines()[-1]
    assert "Traceback" not in err
    assert not (tmp_path / "jigsaw.db").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("create s", "study 's' already exists in sqlite:///jigsaw.db; continue it with `jigsaw worker s`"),
        ("best z", "study 'z' is not in sqlite:///jigsaw.db; there are: s"),
        ("worker s --seed 2", "study 's' was created with seed 1, not 2; leave --seed out, or create another study"),
        ("enqueue s x=2", "parameter 'x' is 2.0; allowed: 0.0 .. 1.0"),
        ("enqueue s x", "'x' is not NAME=VALUE"),
        ("enqueue s --spec list.json", "spec file 'list.json' holds list; expected an object of parameters"),
        ("enqueue s --spec broken.json", "spec file 'broken.json' is no JSON: "),
    ],
)  # fmt: skip
def test_bad_input_for_a_study_that_is_there(
    arguments: str, message: str, ran: Jigsaw, tmp_path: Path
) -> None:
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "broken.json").write_bytes(b"\xff{")
    extra = ("--objective", TINY) if arguments.startswith("create") else ()
    code, out, err = ran(*arguments.split(), *extra)
    assert (code, out) == (2, "")
    assert err.startswith(f"jigsaw: {message}")
    assert err.count("\n") == 1


def test_a_worker_says_a_line_per_trial(jigsaw: Jigsaw) -> None:
    code, out, err = jigsaw("create", "s", "--objective", TINY, "--sampler", "random")
    assert (code, out) == (0, "s\n")
    code, out, err = jigsaw("worker", "s", "--n-trials", "2")
    assert (code, out) == (0, "")
    first, *trials = err.splitlines()
    assert first == "joined study s"
    assert trials[0].startswith("trial   0 complete 0.5000 (best 0.5000)")
    assert len(trials) == 2


def test_a_worker_that_only_fails_gives_up(jigsaw: Jigsaw, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        f"from {HERE} import Plain\n"
        "class Mine(Plain):\n"
        "    def evaluate(self, spec, world, report):\n"
        "        raise ValueError('no such luck')\n"
    )
    jigsaw("create", "s", "--objective", "mine.py:Mine")
    code, _, err = jigsaw("worker", "s", "--max-failures", "2")
    assert code == 1
    assert err.count("failed") == err.count("rank 0: ValueError: no such luck") == 2


@pytest.mark.parametrize("verb", ["status", "status s", "best s", "export s", "export s --curves",
                                  "space s", "environment"])  # fmt: skip
def test_results_parse_and_progress_stays_out(verb: str, ran: Jigsaw) -> None:
    code, out, err = ran(*verb.split(), "--format", "json")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    code, out, err = ran(*verb.split(), "--format", "csv")
    assert (code, err) == (0, "")
    assert len(list(csv.DictReader(io.StringIO(out)))) == len(rows) > 0
    assert ran(*verb.split(), "--format", "table")[0] == 0


def test_status_lists_every_study(ran: Jigsaw) -> None:
    ran("create", "t", "--objective", TINY)
    rows = json.loads(ran("status", "--format", "json")[1])
    assert [(r["study"], r["complete"], r["waiting"]) for r in rows] == [("s", 3, 0), ("t", 0, 1)]
    table = ran("status")[1]
    assert all(text in table for text in ("studies", "complete", "core_hours", " s ", " t "))


def test_status_of_a_database_without_studies(jigsaw: Jigsaw) -> None:
    jigsaw("create", "s", "--objective", TINY)
    from optuna import delete_study

    from study.search.storage import open_storage

    delete_study(study_name="s", storage=open_storage("sqlite:///jigsaw.db"))
    assert jigsaw("status", "--format", "json")[:2] == (0, "[\n\n]\n")


def test_creating_again(ran: Jigsaw) -> None:
    code, out, err = ran("create", "s", "--objective", TINY, "--seed", "9", "--exist-ok")
    assert (code, out) == (0, "")
    assert err == "s is there already; continue it with: jigsaw worker s\n"
    conditions = conditions_of(load_study("sqlite:///jigsaw.db", "s"))
    assert conditions is not None
    assert conditions.seed == 1


def test_exist_ok_creates_what_is_not_there(jigsaw: Jigsaw) -> None:
    code, out, err = jigsaw("create", "s", "--objective", TINY, "--exist-ok")
    assert (code, out) == (0, "s\n")
    assert err == "created; now: jigsaw worker s --n-trials 20\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("names=a,b", ["a", "b"]),
        ("names=4,8", [4, 8]),
        ("names=4,", [4]),
        ('names=["a,b"]', ["a,b"]),
        ('names={"a": 1}', {"a": 1}),
        ("names=one", "one"),
        ("names=a=b", "a=b"),
        ("names=none", None),
    ],
)
def test_settings(text: str, value: Any, jigsaw: Jigsaw) -> None:
    arguments = ("--objective", TINY, "--set", text, "--set", "scale=2.5")
    assert jigsaw("create", "s", *arguments)[0] == 0
    for source in (("s",), arguments):
        settings = json.loads(jigsaw("space", *source, "--settings")[1])
        assert settings == {"scale": 2.5, "names": value}


def test_fixed_and_queued_points(jigsaw: Jigsaw, tmp_path: Path) -> None:
    jigsaw("create", "s", "--objective", TINY, "--fix", "kind=b", "--fix", "depth=2")
    (tmp_path / "p.json").write_text('{"x": 0.25}')
    assert jigsaw("enqueue", "s", "--spec", "p.json")[0] == 0
    assert jigsaw("enqueue", "s", "x=0.125", "--spec", "p.json")[2] == "queued in s\n"
    jigsaw("worker", "s", "--n-trials", "4")
    rows = json.loads(jigsaw("export", "s", "--format", "json")[1])
    assert {(row["kind"], row["depth"]) for row in rows} == {("b", 2)}
    assert [row["x"] for row in rows[:3]] == [0.5, 0.25, 0.125]


def test_a_parameter_may_be_fixed_to_a_word_that_reads_as_something_else(jigsaw: Jigsaw) -> None:
    code, _, err = jigsaw("create", "s", "--objective", f"{HERE}:Worded", "--fix", "kind=none")
    assert (code, err.splitlines()[-1][:7]) == (0, "created")
    conditions = conditions_of(load_study("sqlite:///jigsaw.db", "s"))
    assert conditions is not None
    assert conditions.fixed == {"kind": "none"}


def test_a_study_of_plain_optuna_has_no_space_yet(jigsaw: Jigsaw) -> None:
    from optuna import create_study

    from study.search.storage import open_storage

    create_study(storage=open_storage("sqlite:///jigsaw.db", create=True), study_name="s")
    for verb in ("space s", "enqueue s x=1"):
        code, _, err = jigsaw(*verb.split())
        assert code == 2
        assert err.startswith("jigsaw: study 's' names no objective")


def test_the_space_of_the_example(jigsaw: Jigsaw) -> None:
    code, out, _ = jigsaw("space", "--objective", f"{ROOT}/examples/tune_linear.py:LinearObjective")
    assert code == 0
    assert [line.rstrip() for line in out.splitlines()] == [
        "search space",
        "├── loss: hinge | log_loss | perceptron",
        "│   └── if hinge | log_loss",
        "│       └── eta0: 0.0001 .. 1.0 log",
        "└── alpha: 1e-06 .. 0.1 log",
    ]


@pytest.mark.parametrize(
    "verb", ["status", "best s", "create s", "create s --exist-ok", "worker s"]
)
@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:pa55word@127.0.0.1:1/db",
        "postgresql://u@127.0.0.1:1/db?password=pa55word",
        "postgresql://u:x@pa55word@127.0.0.1:1/db",
    ],
)
def test_a_password_is_never_printed(
    verb: str, url: str, jigsaw: Jigsaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", url)
    extra = ("--objective", TINY) if verb.startswith("create") else ()
    code, out, err = jigsaw(*verb.split(), *extra)
    assert (code, out) == (2, "")
    assert err.startswith("jigsaw: storage ")
    assert "pa55" not in err
    assert "pa55" not in jigsaw(verb.split(maxsplit=1)[0], "--help")[1]


@pytest.mark.parametrize(
    ("command", "code"),
    [(("-m", "study", "status"), 0), (("-m", "study.worker", "--study", "z"), 2)],
)
def test_as_a_program(ran: Jigsaw, tmp_path: Path, command: tuple[str, ...], code: int) -> None:
    paths = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env=paths,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert (done.stdout == "") is (code != 0)
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error(ran: Jigsaw) -> None:
    """As in `jigsaw export s | head -1`, whose reader is gone before the text is written."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "study", "export", "s"], check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
