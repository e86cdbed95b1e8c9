import sys
from pathlib import Path

import pytest

from study import errors
from study.errors import UsageError
from study.resolve import resolve


def test_a_dotted_name() -> None:
    assert resolve("study.errors:UsageError", "thing") is errors.UsageError


def test_one_file_is_one_module_however_it_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("class Thing: pass\n")
    monkeypatch.chdir(tmp_path)
    found = resolve(f"{tmp_path}/mine.py:Thing", "thing")
    assert found is resolve("mine.py:Thing", "thing")
    assert found is resolve("./../" + tmp_path.name + "/mine.py:Thing", "thing")
    assert "mine" not in sys.modules


def test_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"NAME = {folder!r}\n")
    assert [resolve(f"{tmp_path}/{f}/mine.py:NAME", "thing") for f in "ab"] == ["a", "b"]


@pytest.mark.parametrize("text", ["", "thing", "study.errors", ":Thing", "study.errors:", "a.py"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(text, "objective")
    assert (
        str(caught.value)
        == f"objective {text!r}: expected package.module:Name or path/to/file.py:Name"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1\n_y = 2\n", "has no 'Thing'; it has x$"),
        ("", "has no 'Thing'; it has nothing$"),
        (
            "import nowhere_to_be_found\n",
            r"ModuleNotFoundError: No module named 'nowhere.*line 1\)$",
        ),
        ("x = 1\ny = 1 / 0\n", r"ZeroDivisionError: division by zero \(.*mine\.py, line 2\)$"),
        ("import sys\nsys.exit(0)\n", r"cannot be imported: SystemExit: 0 \(.*mine\.py, line 2\)$"),
        ("def f(:\n", r"cannot be imported: SyntaxError: .*mine\.py, line 1\)$"),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        resolve(f"{path}:Thing", "objective")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_was_broken_is_read_again_once_mended(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("Thing = 1 / 0\n")
    with pytest.raises(UsageError):
        resolve(f"{path}:Thing", "objective")
    path.write_text("Thing = 1\n# mended: another length, so no stale byte code\n")
    assert resolve(f"{path}:Thing", "objective") == 1


def test_a_missing_file_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        resolve("no.py:Thing", "data set")
    assert str(caught.value) == f"data set file 'no.py' does not exist (looked in {tmp_path})"


@pytest.mark.parametrize("place", ["no.such.module", ".relative", "study.nothing"])
def test_a_module_that_cannot_be_imported(place: str) -> None:
    with pytest.raises(UsageError, match=f"^objective module '{place}' cannot be imported: "):
        resolve(f"{place}:Thing", "objective")
