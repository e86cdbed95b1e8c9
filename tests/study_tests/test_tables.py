import io
import json
import math
from typing import Any

import pandas as pd
import pytest

from study.space import walk
from study.tables import show, show_space
from tests.study_tests.test_space import layers, nested

FRAME = pd.DataFrame(
    {
        "number": [0, 1],
        "value": [0.123456789, math.nan],
        "name": ["a,b", "[bold]c"],
        "held": [[1, 2], None],
    }
)


def test_csv_is_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    show(FRAME, "csv")
    again = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert again["value"][0] == FRAME["value"][0]
    assert again["name"].tolist() == FRAME["name"].tolist()


def test_json_is_a_list_of_objects(capsys: pytest.CaptureFixture[str]) -> None:
    show(FRAME, "json")
    rows = json.loads(capsys.readouterr().out)
    assert rows[1] == {"number": 1, "value": None, "name": "[bold]c", "held": None}
    assert rows[0]["held"] == [1, 2]


def test_a_table_shows_every_cell_and_no_missing_value(capsys: pytest.CaptureFixture[str]) -> None:
    show(FRAME, "table", "a [title]")
    text = capsys.readouterr().out
    for part in ("a [title]", "0.1235", "a,b", "[bold]c", "[1, 2]", "number"):
        assert part in text
    assert "nan" not in text.lower()
    assert "None" not in text


@pytest.mark.parametrize(("form", "text"), [("json", "[]"), ("csv", ""), ("table", "")])
def test_an_empty_frame_prints(form: Any, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    show(pd.DataFrame(), form)
    assert capsys.readouterr().out.translate(str.maketrans("", "", '\n"')) == text


def test_wide_tables_are_not_cut_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    show(pd.DataFrame({f"column{k}": ["x" * 12] for k in range(10)}), "table")
    assert "x" * 12 in capsys.readouterr().out


@pytest.mark.parametrize(
    ("space", "lines"),
    [
        (
            nested,
            [
                "search space",
                "├── loss: margin | hinge | log",
                "│   ├── if margin | hinge",
                "│   │   └── c: 0.0 .. 1.0",
                "│   └── if log",
                "│       └── if optimizer = sgd",
                "│           └── f: 0 .. 100",
                "└── optimizer: adam | sgd",
                "    └── if sgd",
                "        └── d: plain | momentum",
                "            └── if momentum",
                "                └── e: 0.0 .. 1.0",
            ],
        ),
        (
            layers,
            [
                "search space",
                "├── layers: 1 .. 3",
                "│   ├── if 2 | 3",
                "│   │   └── units.1: 8 .. 512",
                "│   └── if 3",
                "│       └── units.2: 8 .. 512",
                "└── units.0: 8 .. 512",
            ],
        ),
    ],
)
def test_a_space_is_a_tree_of_choices(
    space: Any, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    show_space(walk(space))
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == lines
