"""Examples that bring their own images and classifiers run, and say what they need."""

import csv
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from models.classifiers import build
from objectives.data import load
from objectives.evaluation import logits_of
from objectives.targets import load_targets
from study.errors import UsageError
from study.world import World

ROOT = Path(__file__).resolve().parents[2]
OWN = "examples/own_data_and_classifier.py"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def jigsaw(folder: Path, *arguments: str) -> str:
    environment = os.environ | {
        "OPTUNA_STORAGE": f"sqlite:///{folder}/study.db", "JIGSAW_CACHE": str(folder / "cache"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "study", *arguments], check=False, cwd=ROOT, env=environment,
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_pairs_are_what_they_say(here) -> None:
    data = load(f"{OWN}:digits_pairs")
    assert data.name == f"{OWN}:digits_pairs"
    for split, count in ((data.train, 2000), (data.tune, 500), (data.report, 500)):
        assert split.images.shape == (count, 1, 16, 16)
        assert not split.images[:, :, [0, 1, 2, 3, 12, 13, 14, 15]].any()
        assert 0.35 < split.labels.mean() < 0.55
    left = {i.tobytes() for i in data.train.images[:, :, 4:12, :8]}
    assert not left & {i.tobytes() for i in data.tune.images[:, :, 4:12, :8]}


def test_a_name_that_the_file_lacks_is_said(here) -> None:
    with pytest.raises(UsageError, match="has no 'triples'"):
        load(f"{OWN}:triples")


def test_two_trials_in_one_process(tmp_path: Path) -> None:
    settings = {
        "data": f"{OWN}:digits_pairs", "train": f"{OWN}:TinyNet", "tune": f"{OWN}:TinyNet@1",
        "report": "plain", "classifier_images": 6000, "images": 128, "tune_images": 100, "reports": 2,
        "epsilons": 16,
    }  # fmt: skip
    pairs = [f"--set={name}={value}" for name, value in settings.items()]
    jigsaw(tmp_path, "create", "mine", "--pruner", "none", *pairs)
    jigsaw(tmp_path, "worker", "mine", "--n-trials", "2")
    rows = list(csv.DictReader(io.StringIO(jigsaw(tmp_path, "export", "mine"))))
    assert [row["state"].lower() for row in rows] == ["complete", "complete"]
    assert all(0 <= float(row["value"]) <= 1 for row in rows)
    assert len(list((tmp_path / "cache" / "classifiers").iterdir())) == 2


def test_its_classifier_learns(here) -> None:
    data, text = load(f"{OWN}:digits_pairs"), f"{OWN}:TinyNet"
    net = load_targets([text], data, 6000, World())[text]
    right = logits_of(net, data.tune.images).argmax(1) == data.tune.labels
    assert right.mean() > 0.65


def test_a_torch_classifier_is_trained_and_attacked(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'jigsaw[torch]'")
    example = Path(shutil.copy(ROOT / "examples" / "torch_classifier.py", tmp_path))
    text = f"torch:{example}:pretrained"
    with pytest.raises(UsageError, match=r"torch_classifier\.pt is missing: run python .* first"):
        build(text, channels=3, classes=10, size=32, seed=0)
    done = subprocess.run(
        [sys.executable, str(example), "--epochs", "1"], check=False, cwd=ROOT,
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert float(re.search(r"accuracy (\d\.\d\d)", done.stdout)[1]) > 0.3
    settings = {
        "train": text, "tune": f"torch:{example}:ResNet", "report": "plain", "images": 64,
        "tune_images": 50, "reports": 1, "epsilons": 16,
    }  # fmt: skip
    pairs = [f"--set={name}={value}" for name, value in settings.items()]
    jigsaw(tmp_path, "create", "mine", "--pruner", "none", *pairs)
    jigsaw(tmp_path, "worker", "mine", "--n-trials", "1")
    (row,) = csv.DictReader(io.StringIO(jigsaw(tmp_path, "export", "mine")))
    assert row["state"].lower() == "complete"
    assert not (tmp_path / "cache").exists()
