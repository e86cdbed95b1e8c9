"""What the documents say is true: links lead somewhere, the README's commands run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkout import ROOT, copy_checkout

DOCUMENTS = sorted(
    p for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")]
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text())
    dead = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not dead


def test_every_decision_is_context_choice_cost() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [int(p.name[:4]) for p in pages]
    assert numbers == sorted(set(numbers))
    for page in pages:
        assert re.findall(r"^\*\*(\w+)\.\*\*", page.read_text(), re.M) == [
            "Context",
            "Choice",
            "Cost",
        ], page


def test_modules_that_documents_name_exist() -> None:
    for document in DOCUMENTS:
        for name in re.findall(
            r"`((?:study|models|objectives|dashboards)(?:\.[a-z_]+)+)", document.read_text()
        ):
            found = ROOT / Path(*name.split("."))
            inside = (
                found.parent.with_suffix(".py").is_file()
                or (found.parent / "__init__.py").is_file()
            )
            assert found.with_suffix(".py").is_file() or found.is_dir() or inside, (
                f"{document.name}: {name}"
            )


def test_make_lists_every_benchmark_and_says_what_it_is_for() -> None:
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    found = dict(line.split(maxsplit=1) for line in told.stdout.splitlines())
    modules = (ROOT / "benchmarks").glob("bench_*.py")
    assert {path.stem.replace("_", "-") for path in modules} <= set(found)
    assert found["demo"].endswith("(QUICK=1: a smaller one)")  # whatever a text holds


def commands() -> str:
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    script = "\n".join(blocks)
    assert "make demo" in script
    return script.replace("make demo", "make demo QUICK=1").replace("runs/demo", "runs/demo-quick")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_of_the_readme_run_in_order(tmp_path: Path) -> None:
    copy_checkout(tmp_path)
    # The environment that runs this test, so that nothing is installed twice.
    (tmp_path / ".venv").symlink_to(sys.prefix)
    bare = {
        k: v
        for k, v in os.environ.items()
        if k not in ("OPTUNA_STORAGE", "VIRTUAL_ENV", "MAKEFLAGS")
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands()], cwd=tmp_path, text=True, capture_output=True,
        env=bare | {"JIGSAW_CACHE": str(tmp_path / "cache")}, timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(list((tmp_path / "adversarial").glob("*.png"))) == 8
    assert (tmp_path / "runs/demo-quick/report.html").stat().st_size > 1_000_000
