"""The walls of the architecture, and what an import may cost."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("study", "models", "objectives", "dashboards")


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_walls_stand() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("study/space.py", "import models.pixels", "study on none of"),
        ("models/pixels.py", "import objectives.losses", "study on none of"),
        ("dashboards/look.py", "import objectives.losses", "study on none of"),
        ("models/pixels.py", "from mpi4py import MPI", "mpi4py is reached only"),
        ("study/space.py", "import optuna", "Optuna is reached only"),
        ("objectives/losses.py", "from chainermn import functions", "ChainerMN is reached only"),
    ],
)
def test_a_breach_is_found(tmp_path: Path, module: str, line: str, broken: str) -> None:
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    with (tmp_path / module).open("a") as file:
        file.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    verdicts = " ".join(done.stdout.split("Broken contracts")[0].split())
    assert verdicts.count(" BROKEN") == 1
    assert broken in verdicts.split(" BROKEN")[0].rsplit(" KEPT ", 1)[-1]


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        # A rank that only evaluates needs no database; a verb that only reads needs no networks.
        ("study.worker", "optuna sqlalchemy chainer chainermn mpi4py pandas"),
        ("study.job", "optuna sqlalchemy chainer chainermn mpi4py pandas"),
        ("objectives.attack", "optuna sqlalchemy mpi4py pandas scipy.stats skimage sklearn torch"),
        ("study.commands", "optuna sqlalchemy chainer chainermn mpi4py"),
        ("study.__main__", "optuna sqlalchemy chainer chainermn mpi4py"),
        ("study.search.joining", "chainer chainermn mpi4py"),
        ("models", "mpi4py optuna sqlalchemy torch"),
        ("models.generators", "mpi4py optuna sqlalchemy torch"),
        ("dashboards.commands", "chainer chainermn mpi4py"),
    ],
)
def test_what_an_import_pulls_in(module: str, unwanted: str) -> None:
    code = f"import sys, {module}; print(*(set(sys.modules) & set({unwanted.split()})))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
