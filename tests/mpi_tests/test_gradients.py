"""Data-parallel training on real ranks computes what one process computes."""

import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from models import device
from study.errors import UsageError
from study.world import World
from tests.mpi_tests.gradients_job import (
    CASES,
    SUMS,
    Case,
    all_results,
    far_away,
    summand,
    with_gradients,
)
from tests.mpi_tests.jobs import run_job

RANKS = (2, 4)
PARTS = ("matrix", "scalar", "cube")


@pytest.fixture(scope="module")
def alone() -> dict[str, np.ndarray]:
    return all_results(World())


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory):
    """The results of the job on so many ranks, run once."""

    @cache
    def run(ranks: int) -> dict[str, np.ndarray]:
        path = tmp_path_factory.mktemp("job") / "result.npz"
        run_job(ranks, Path(__file__).with_name("gradients_job.py"), path, limit=180)
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)

    return run


def flat(results: dict[str, np.ndarray], case: Case, part: str) -> np.ndarray:
    prefix = f"{case.name}:{part}/"
    return np.concatenate([np.ravel(v) for k, v in sorted(results.items()) if k.startswith(prefix)])


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("part", ["grad", "after"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_ranks_compute_what_one_process_computes(alone, job, case, part, ranks) -> None:
    one, many = flat(alone, case, part), flat(job(ranks), case, part)
    assert np.linalg.norm(one) > 0
    assert np.linalg.norm(many - one) <= 1e-9 * np.linalg.norm(one)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_updates_that_are_compared_are_no_rounding_errors(alone, case) -> None:
    first = {k: v for k, v in alone.items() if k.startswith(f"{case.name}:grad")}
    assert min(np.linalg.norm(v) for v in first.values()) > 1e-12


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_parameters_and_statistics_stay_equal_bit_for_bit(job, case, ranks) -> None:
    equal = job(ranks)[f"{case.name}:digests"]
    assert len(equal) == ranks
    assert equal.all()


DEALT = [case for case in CASES if case.placement == "dealt" and case.loss == "margin"]


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("case", DEALT, ids=lambda case: case.name)
def test_each_target_is_computed_by_one_rank_of_each_group(job, case, ranks) -> None:
    computed = job(ranks)[f"{case.name}:computed"]
    assert computed.shape == (ranks, case.targets)
    size = {(2, 2): 2, (2, 3): 2, (2, 4): 2, (4, 2): 2, (4, 3): 2, (4, 4): 4}[ranks, case.targets]
    groups = computed.reshape(ranks // size, size, case.targets)
    np.testing.assert_array_equal(groups.sum(axis=1), 1)
    assert computed.any(axis=1).all()


@pytest.mark.gpu
def test_ranks_on_gpus_compute_what_one_processor_computes(alone, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JIGSAW_DEVICE", "cuda")
    try:
        device.current()
    except UsageError as error:
        pytest.skip(str(error))
    run_job(2, Path(__file__).with_name("gradients_job.py"), tmp_path / "gpu.npz", limit=180)
    with np.load(tmp_path / "gpu.npz", allow_pickle=False) as arrays:
        found = dict(arrays)
    for case in CASES:
        one, many = flat(alone, case, "after"), flat(found, case, "after")
        assert np.linalg.norm(many - one) <= 1e-6 * np.linalg.norm(one), case.name


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("case", ["all", "missing", "filled", "group"])
def test_the_packed_communicator_does_what_the_naive_one_does(job, case, ranks) -> None:
    found = job(ranks)
    for name in PARTS:
        packed, naive = (found[f"{kind}:{case}/{name}"] for kind in ("packed", "naive"))
        assert packed.dtype == naive.dtype
        if packed.dtype == np.float32:
            np.testing.assert_allclose(packed, naive, rtol=1e-6, atol=1e-7)
        else:
            assert (packed.item(), naive.item()) == ("none", "none")


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize(
    ("case", "who", "missing"),
    [
        ("all", range, ()),
        ("missing", range, ("cube",)),
        ("filled", range, None),
        ("group", lambda ranks: range(2), ()),
    ],
)
def test_the_mean_is_the_sum_of_the_shares_over_their_number(
    job, case, who, missing, ranks
) -> None:
    group = who(ranks)
    links = [
        with_gradients(rank, *(missing if missing is not None else ["cube"] * (rank > 0)))
        for rank in group
    ]
    for name in PARTS:
        grads = [g for link in links if (g := getattr(link, name).grad) is not None]
        found = job(ranks)[f"packed:{case}/{name}"]
        if grads:
            np.testing.assert_allclose(found, sum(grads) / len(group), rtol=1e-5, atol=1e-7)
        else:
            assert found.item() == "none"


@pytest.mark.parametrize("ranks", RANKS)
def test_a_gradient_that_only_some_ranks_have_ends_the_trial_and_says_so(job, ranks) -> None:
    said = job(ranks)["diverged"].item()
    assert "rank 0: ranks diverged: this one is at 'mean of gradients" in said
    assert "which this rank has 111'" in said
    assert "which this rank has 011'" in said


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize(("dtype", "size"), SUMS)
def test_a_sum_is_that_of_all_ranks_in_its_own_shape_and_dtype(job, dtype, size, ranks) -> None:
    found = job(ranks)[f"sum:{dtype}{size}"]
    expected = sum(summand(rank, dtype, size) for rank in range(ranks))
    assert (found.shape, found.dtype) == ((1, size), expected.dtype)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-3 if dtype == "f4" else 1e-9)


@pytest.mark.parametrize("ranks", RANKS)
def test_sums_of_different_shapes_end_the_trial_and_say_so(job, ranks) -> None:
    assert "rank 0: ranks diverged: this one is at 'sum of (2,)'" in job(ranks)["differ"].item()
    assert "rank 1: ranks diverged: this one is at 'sum of (3,)'" in job(ranks)["differ"].item()


@pytest.mark.parametrize("ranks", RANKS)
def test_a_shared_variance_does_not_cancel_where_the_mean_is_far_away(job, ranks) -> None:
    images = np.concatenate([far_away(rank) for rank in range(ranks)]).astype(np.float64)
    variance = images.var(axis=(0, 2, 3), ddof=1)
    np.testing.assert_allclose(job(ranks)["variance"], 0.9 + 0.1 * variance, rtol=1e-3)


def test_a_job_that_hangs_is_ended_whole(tmp_path: Path) -> None:
    script = tmp_path / "hang.py"
    # Files, because what a killed mpiexec had still to forward of a rank's output is lost.
    script.write_text(
        "import os, pathlib, sys, time\n"
        "pathlib.Path(sys.argv[1], f'{os.getpid()}.pid').touch()\n"
        "time.sleep(60)\n"
    )
    with pytest.raises(AssertionError, match=r"ran longer than 4 s"):
        run_job(2, script, tmp_path, limit=4)
    pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(pids) == 2
    deadline = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, pids))


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
