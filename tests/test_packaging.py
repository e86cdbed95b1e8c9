"""The wheel, built and installed in a fresh environment, works from another folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.checkout import ROOT, copy_checkout

pytestmark = pytest.mark.timeout(600)


def call(*command: str | Path, cwd: Path, check: bool = True) -> "subprocess.CompletedProcess[str]":
    constraints = str(ROOT / "constraints.txt")
    extra = {"PIP_CONSTRAINT": constraints, "PIP_BUILD_CONSTRAINT": constraints}
    bare = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "OPTUNA_STORAGE")
    } | extra
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=bare,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    # Not in place: setuptools would leave a build folder here, and ship what it finds there next time.
    source = copy_checkout(tmp_path_factory.mktemp("source"))
    call(sys.executable, "-m", "build", "--wheel", "--outdir", folder, source, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment that has the wheel and nothing of this checkout."""
    place = tmp_path_factory.mktemp("fresh")
    call(sys.executable, "-m", "venv", place / "venv", cwd=place)
    binaries = place / "venv" / "bin"
    call(binaries / "pip", "install", "--quiet", f"{wheel}[mpich]", cwd=place)
    return binaries


def test_the_wheel_holds_our_packages_and_nothing_else(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {t for t in tops if not t.endswith(".dist-info")} == {
        "study", "models", "objectives", "dashboards",
    }  # fmt: skip


def test_the_wheel_holds_the_released_networks(wheel: Path) -> None:
    listed = {str(p.relative_to(ROOT)) for p in (ROOT / "models" / "released").rglob("*.*")}
    kept = {name for name in listed if "__pycache__" not in name}
    assert kept <= set(zipfile.ZipFile(wheel).namelist())


def test_a_study_runs_from_the_wheel_on_two_ranks(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text((ROOT / "examples" / "tune_linear.py").read_text())
    call(
        installed / "jigsaw", "create", "s", "--objective", "mine.py:LinearObjective", cwd=tmp_path
    )
    call(installed / "mpiexec", "-n", "2", installed / "python", "-m", "study.worker",
         "--study", "s", "--storage", "sqlite:///jigsaw.db", "--n-trials", "2", cwd=tmp_path)  # fmt: skip
    shown = call(installed / "jigsaw", "best", "s", "--format", "csv", cwd=tmp_path).stdout
    assert shown.startswith("number,value,")


def test_a_users_own_module_of_our_name_is_refused_in_one_sentence(
    installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "models.py").write_text("print('not ours')")
    done = call(installed / "python", "-m", "study", "status", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "models.py" in done.stderr
    assert "PYTHONSAFEPATH=1" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert call(installed / "jigsaw", "--version", cwd=tmp_path).stdout.startswith("jigsaw")
