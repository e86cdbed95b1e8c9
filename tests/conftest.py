"""Fixtures every test may use. The real-data folder is named here and nowhere else."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("JIGSAW_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets and pretrained weights, or a skip that says how to name it."""
    if not (DATA / "README.md").is_file():
        pytest.skip(f"no real data at {DATA}: set JIGSAW_DATA to the folder that holds it")
    return DATA
