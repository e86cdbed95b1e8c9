"""A password that a job needs is in no command line, in no output and in no row of the database."""

from pathlib import Path

import pytest
from sqlalchemy import MetaData, select

from study.conditions import Conditions
from study.objective import load_objective
from study.search.storage import open_storage
from study.search.studies import create_study, load_study
from tests.databases import PostgreSQL
from tests.mpi_tests.jobs import ROOT, mpi

FILE = f"{ROOT}/tests/mpi_tests/looking.py"
SECRET = "pa55word"  # noqa: S105  of nobody


@pytest.mark.parametrize("way", ["environment", "file"])
def test_a_job_keeps_the_password_to_itself(
    way: str, postgresql_server: PostgreSQL, tmp_path: Path
) -> None:
    postgresql_server.empty()
    # This server trusts everybody: what matters is where the password goes.
    url = postgresql_server.url.replace("postgres@", f"postgres:{SECRET}@")
    (tmp_path / "url").write_text(url)
    (tmp_path / "url").chmod(0o600)
    objective = load_objective(f"{FILE}:Looking", {})
    study = create_study(url, "s", Conditions(objective=f"{FILE}:Looking"), objective)
    storage, extra = (
        ((), {"OPTUNA_STORAGE": url}) if way == "environment" else (("--storage", "file:url"), {})
    )
    done = mpi(2, "-m", "study.worker", "--study", "s", "--n-trials", "1", *storage, cwd=tmp_path, **extra)  # fmt: skip
    assert done.code == 0, done.err
    (trial,) = load_study(url, "s").trials
    assert trial.user_attrs["workers"] >= 2, "the ranks did not see each other"
    assert trial.user_attrs["found"] == []
    assert SECRET not in done.out + done.err
    assert SECRET not in stored(url)
    assert SECRET not in repr(study)


def stored(url: str) -> str:
    """Every cell of every table."""
    engine, tables = open_storage(url).engine, MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        return str([connection.execute(select(t)).all() for t in tables.sorted_tables])
