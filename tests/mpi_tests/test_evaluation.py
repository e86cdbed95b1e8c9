"""Classifiers and error tables are the same on any number of ranks."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from study.world import World
from tests.mpi_tests.evaluation_job import ATTACKS, TEXTS, results
from tests.mpi_tests.jobs import run_job

RANKS = (2, 4)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JIGSAW_CACHE", str(tmp_path_factory.mktemp("cache")))
        return results(World())


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory):
    """The results of the job on so many ranks, run once."""

    @cache
    def run(ranks: int) -> dict:
        path = tmp_path_factory.mktemp("job") / "result.json"
        run_job(ranks, Path(__file__).with_name("evaluation_job.py"), path)
        return json.loads(path.read_text())

    return run


@pytest.mark.parametrize("ranks", RANKS)
def test_classifiers_are_dealt_out_and_come_out_as_from_one_process(alone, job, ranks) -> None:
    found = job(ranks)
    assert found["equal"]
    assert found["digests"] == alone["digests"]
    assert len(alone["digests"]) == len(TEXTS)


@pytest.mark.parametrize("ranks", RANKS)
def test_every_rank_keeps_every_classifier(alone, job, ranks) -> None:
    assert job(ranks)["files"] == alone["files"] * ranks
    assert len(alone["files"][0]) == len(TEXTS)


@pytest.mark.parametrize("ranks", RANKS)
def test_the_table_is_the_same(alone, job, ranks) -> None:
    found = job(ranks)["table"]
    assert len(found) == len(ATTACKS) * 2 * len(TEXTS)
    for row, expected in zip(found, alone["table"], strict=True):
        # How a batch is cut moves logits in the last bit, and with it the sign of a tiny gradient.
        near = {name: pytest.approx(expected[name], rel=1e-3) for name in ("l2", "ssim")}
        assert row == {**expected, **near}


@pytest.mark.parametrize("ranks", RANKS)
def test_fewer_images_than_ranks_are_scored_all_the_same(alone, job, ranks) -> None:
    assert job(ranks)["rates"] == alone["rates"]


@pytest.mark.parametrize("ranks", RANKS)
def test_ranks_train_one_robust_classifier(alone, job, ranks) -> None:
    """The random starts are those of the whole batch, whoever computes an image."""
    np.testing.assert_allclose(job(ranks)["robust"], alone["robust"], atol=0.02)
