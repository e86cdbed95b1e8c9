"""The study on the contest's images, in small: from real images to claims."""

import pandas as pd
import pytest

from benchmarks import bench_nips17
from benchmarks.bench_nips17 import MI_FGSM, OURS, SIZE
from models.package import load_package
from objectives.data import load


def test_images_are_shrunk_and_stay_in_their_splits(real_data) -> None:
    whole, small = load(f"nips17:{real_data / 'nips17_dev'}"), bench_nips17.small()
    for split in ("train", "tune", "report"):
        before, after = getattr(whole, split), getattr(small, split)
        assert after.images.shape == (len(before.labels), 3, SIZE, SIZE)
        assert after.names == before.names
        apart = after.images.mean(axis=(1, 2, 3)) - before.images.mean(axis=(1, 2, 3))
        assert abs(apart).max() < 1  # antialiased: brightness stays


@pytest.mark.slow
def test_from_the_study_to_the_claims(real_data, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("benchmarks.claims.RESULTS", tmp_path)
    for name, value in {
        "FOLDER": tmp_path / "run", "TRIALS": 1, "TRIAL": 4, "WINNER": 4, "SHOWN": 10, "EPSILONS": (8,), "QUICK": True,
    }.items():  # fmt: skip
        monkeypatch.setattr(bench_nips17, name, value)
    bench_nips17.main()
    found = pd.read_csv(tmp_path / "nips17_quick.csv", comment="#").set_index("claim")["value"]
    errors = {name: found[f"{name}, eps 8: mean error over the report set"] for name in
              ("noop", MI_FGSM, OURS)}  # fmt: skip
    assert errors["noop"] < errors[MI_FGSM] <= 100
    assert errors["noop"] - 5 < errors[OURS] < errors[MI_FGSM]  # of four images nothing is learned
    _, card = load_package(tmp_path / "run" / "winner")
    assert card.record["study"] == "nips17"
    before = (tmp_path / "run" / "winner" / "weights.npz").stat().st_mtime_ns
    bench_nips17.main()  # goes on from what is there
    assert (tmp_path / "run" / "winner" / "weights.npz").stat().st_mtime_ns == before
