"""Classifier sets: trained once, kept by content, and disjoint."""

import re
from dataclasses import replace
from pathlib import Path

import models  # noqa: F401  makes Chainer importable

# isort: split
import numpy as np
import pytest

from models import weights
from models.classifiers import build, defend, freeze, undefended
from models.defences import split_defences
from models.pixels import to_unit
from objectives import targets
from objectives.boosters import flip
from objectives.classifier import ClassifierSpec, train_classifier
from objectives.data import DataSet, Split
from objectives.targets import (
    CleanLogits,
    check_disjoint,
    check_distinct,
    load_targets,
    parse_target,
)
from study.errors import DataError, TrialInterrupted, UsageError
from study.world import World

TEXT = "plain-w2"
OWN = """
import chainer.functions as F
import chainer.links as L
import chainer
import numpy as np

class Net(chainer.Chain):
    def __init__(self, channels, classes, size, seed):
        super().__init__()
        rng = np.random.RandomState(seed)
        with self.init_scope():
            self.linear = L.Linear(
                channels * size * size, classes, initialW=chainer.initializers.HeNormal(rng=rng)
            )

    def forward(self, x):
        return self.linear(F.reshape(chainer.as_variable(x), (len(x), -1)))
"""


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """The classifiers that were really trained, in order."""
    found, train = [], targets.train_classifier

    def count(spec, data, images, seed, world):
        found.append(f"{spec.classifier}@{seed}" if seed else spec.classifier)
        return train(spec, data, images, seed, world)

    monkeypatch.setattr(targets, "train_classifier", count)
    return found


def files(cache: Path) -> list[str]:
    return sorted(p.name for p in (cache / "classifiers").iterdir())


def test_the_second_call_loads_the_same_bits(digits, trained, cache) -> None:
    first = load_targets([TEXT], digits, 64, World())
    again = load_targets([TEXT, TEXT], digits, 64, World())
    assert trained == [TEXT]
    assert weights.digest(first[TEXT]) == weights.digest(again[TEXT])
    assert re.fullmatch(r"plain-w2-[0-9a-f]{16}\.npz", *files(cache))


@pytest.mark.parametrize(("seconds", "meetings"), [(0, [False] * 3 + [True]), (3600, [True])])
def test_ranks_meet_while_they_train_and_nothing_is_lost(
    digits, monkeypatch, seconds, meetings
) -> None:
    met, world = [], World()
    monkeypatch.setattr(targets, "_TOGETHER", seconds)
    monkeypatch.setattr(world, "allgather", lambda value: met.append(value) or [value])
    net = load_targets([TEXT], digits, 96, world)[TEXT]
    spec = ClassifierSpec(classifier=TEXT)
    *_, (_, alone) = train_classifier(spec, digits, 96, 0, World())
    assert weights.digest(net) == weights.digest(alone)
    assert [value for value in met if isinstance(value, bool)] == meetings


def test_a_signal_is_heard_while_classifiers_train(digits, cache) -> None:
    world = World()
    world.interrupted = True
    with pytest.raises(TrialInterrupted):
        load_targets([TEXT], digits, 2048, world)
    assert not cache.exists()


def test_what_was_trained_is_kept_though_the_next_one_is_stopped(
    digits, trained, cache, monkeypatch
) -> None:
    train = targets.train_classifier

    def stopped(spec, *rest):
        if spec.classifier == "vgg-w4":
            raise TrialInterrupted("stopped")
        return train(spec, *rest)

    monkeypatch.setattr(targets, "train_classifier", stopped)
    with pytest.raises(TrialInterrupted):
        load_targets([TEXT, "vgg-w4"], digits, 64, World())
    monkeypatch.setattr(targets, "train_classifier", train)
    load_targets([TEXT, "vgg-w4"], digits, 64, World())
    assert trained == [TEXT, "vgg-w4"]


def test_training_is_a_function_of_what_names_the_file(digits, trained, cache) -> None:
    first = weights.digest(load_targets([TEXT], digits, 64, World())[TEXT])
    (cache / "classifiers" / files(cache)[0]).unlink()
    assert weights.digest(load_targets([TEXT], digits, 64, World())[TEXT]) == first
    assert trained == [TEXT, TEXT]


def test_classifiers_are_frozen_and_know_batch_statistics(digits) -> None:
    net = load_targets(["resnet8-w2"], digits, 96, World())["resnet8-w2"]
    assert net.frozen
    statistics = {k: v for k, v in weights.arrays(net).items() if k.endswith("avg_mean")}
    assert statistics
    assert all(np.abs(v).max() > 0 for v in statistics.values())
    again = load_targets(["resnet8-w2"], digits, 96, World())["resnet8-w2"]
    assert weights.digest(again) == weights.digest(net)


def with_one_pixel_changed(data: DataSet) -> DataSet:
    images = data.train.images.copy()
    images[0, 0, 0, 0] ^= 1
    return replace(data, train=Split(images, data.train.labels))


@pytest.mark.parametrize(
    ("text", "data", "images"),
    [
        (TEXT, with_one_pixel_changed, 64),
        (TEXT, lambda data: data, 96),
        (f"{TEXT}@1", lambda data: data, 64),
        ("plain-w3", lambda data: data, 64),
    ],
    ids=["data", "images", "seed", "width"],
)
def test_whatever_decides_the_weights_changes_the_file(
    digits, trained, cache, text, data, images
) -> None:
    load_targets([TEXT], digits, 64, World())
    load_targets([text], data(digits), images, World())
    assert trained == [TEXT, text]
    assert len(files(cache)) == 2


def test_the_name_of_the_data_does_not_change_the_file(digits, trained) -> None:
    load_targets([TEXT], digits, 64, World())
    load_targets([TEXT], replace(digits, name="elsewhere"), 64, World())
    load_targets([f"{TEXT}@0"], digits, 64, World())
    assert trained == [TEXT]


def test_a_users_file_is_known_by_its_content(digits, trained, cache, tmp_path) -> None:
    place = tmp_path / "mine.py"
    place.write_text(OWN)
    text = f"{place}:Net"
    load_targets([text], digits, 64, World())
    load_targets([text], digits, 64, World())
    assert trained == [text]
    place.write_text(OWN + "\n# another version\n")
    load_targets([text], digits, 64, World())
    assert trained == [text, text]
    assert [name.rpartition("-")[0] for name in files(cache)] == ["mine-py-Net"] * 2


def test_a_damaged_file_of_the_cache_is_named(digits, cache) -> None:
    load_targets([TEXT], digits, 64, World())
    path = cache / "classifiers" / files(cache)[0]
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=re.escape(str(path))):
        load_targets([TEXT], digits, 64, World())


def test_pretrained_weights_are_never_trained(digits, trained, cache, tmp_path) -> None:
    with pytest.raises(DataError, match=r"absent\.npz"):
        load_targets([f"npz:{tmp_path}/absent.npz"], digits, 64, World())
    assert not trained
    assert not cache.exists()


TORCH = """
import torch

class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 10))
"""


def test_torch_modules_are_never_trained(digits, trained, cache, tmp_path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'jigsaw[torch]'")
    (tmp_path / "net.py").write_text(TORCH)
    text = f"torch:{tmp_path}/net.py:Net"
    first, again = (load_targets([text], digits, 64, World())[text] for _ in range(2))
    assert first.frozen
    assert weights.digest(first) == weights.digest(again)
    assert not trained
    assert not cache.exists()


class Other(World):
    """A rank whose peer brought another file."""

    def allgather(self, value):
        return [value, dict.fromkeys(value, "0" * 64)]


def test_ranks_with_different_weights_do_not_start(digits, tmp_path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'jigsaw[torch]'")
    (tmp_path / "net.py").write_text(TORCH)
    text = f"torch:{tmp_path}/net.py:Net"
    with pytest.raises(
        UsageError, match=r"net\.py:Net' has other weights on rank 1 than on rank 0"
    ):
        load_targets([text], digits, 64, Other())


@pytest.mark.parametrize(
    ("text", "name", "seed"),
    [
        ("resnet8", "resnet8", 0),
        ("resnet8@0", "resnet8", 0),
        ("vgg-w8@12", "vgg-w8", 12),
        ("file.py:Net@3", "file.py:Net", 3),
        ("npz:/home/a@b/net.npz", "npz:/home/a@b/net.npz", 0),
        ("/a@b/net.py:Net@4", "/a@b/net.py:Net", 4),
    ],
)
def test_what_follows_the_at_is_the_seed(text, name, seed) -> None:
    assert parse_target(text) == (name, seed)


@pytest.mark.parametrize("seed", ["", "x", "-1", "1.5", "²"])
def test_what_is_no_seed_is_refused(seed) -> None:
    with pytest.raises(UsageError) as raised:
        parse_target(f"vgg@{seed}")
    assert str(raised.value) == (
        f"classifier 'vgg@{seed}': {seed!r} after @ is no seed; allowed: an integer >= 0"
    )


@pytest.mark.parametrize(
    ("train", "tune"),
    [
        ("vgg", "vgg"),
        ("vgg", "vgg@0"),
        ("vgg@7", "vgg@7"),
        ("npz:a/../net.npz", "npz:net.npz"),
        ("x/../net.py:Net", "net.py:Net@0"),
        ("vgg", "jpeg:50+vgg"),
        ("jpeg:50+vgg@2", "bits:3+vgg@2"),
        ("npz:net.npz", "median:3+npz:x/../net.npz"),
        ("npz:net.npz~fgsm-rs:1", "npz:x/../net.npz"),
        ("npz:net.npz~fgsm-rs:1", "jpeg:50+npz:net.npz~pgd:8@2"),
        ("vgg~pgd", "vgg~pgd:8x7"),
        ("x/../net.py:Net~pgd", "jpeg:50+net.py:Net~pgd"),
        ("onnx:x/../net.onnx", "onnx:net.onnx"),
        ("torch:x/../net.py:Net", "torch:net.py:Net@0"),
        ("torch:package.module:Net", "torch:package.module:Net@0"),
    ],
)
def test_one_classifier_in_two_sets_is_refused_however_it_is_written(train, tune) -> None:
    with pytest.raises(UsageError) as raised:
        check_disjoint({"train": ["plain", train], "tune": [tune], "report": ["resnet8"]})
    assert str(raised.value) == (
        f"classifier {tune!r} is in the sets 'train' and 'tune'; the sets must be disjoint"
    )


@pytest.mark.parametrize(
    ("train", "tune"),
    [
        ("vgg", "vgg@1"),
        ("vgg", "vgg-w8"),
        ("npz:a.npz", "npz:b.npz"),
        ("a.py:A", "a.py:B"),
        ("vgg", "vgg~pgd"),
        ("vgg~pgd", "vgg~pgd:4"),
        ("vgg", "jpeg:50+vgg@1"),
        ("bits:3+vgg", "jpeg:50+vgg@1"),
        ("torch:a.py:A", "a.py:A"),
        ("torch:a.py:A", "torch:a.py:A@1"),
    ],
)
def test_different_classifiers_are_different(train, tune) -> None:
    check_disjoint({"train": [train, train], "tune": [tune], "report": ["resnet8"]})


@pytest.mark.parametrize("report", ["jpeg:50+vgg", "bits:3+jpeg:90+vgg"])
def test_a_defence_that_was_trained_on_is_not_reported_on(report) -> None:
    with pytest.raises(UsageError) as raised:
        check_disjoint({"train": ["jpeg:50+plain"], "tune": ["mobilenet"], "report": [report]})
    assert str(raised.value) == (
        f"defence 'jpeg' of {report!r} is in the sets 'train' and 'report'; "
        "the sets must be disjoint in defences too"
    )


def test_one_set_may_hold_a_classifier_with_and_without_defences() -> None:
    check_disjoint({"train": ["vgg"], "report": ["plain", "jpeg:50+plain", "jpeg:90+plain"]})


def test_a_defended_classifier_is_trained_once_and_shares_its_weights(
    digits, trained, cache
) -> None:
    defended = f"bits:2+median:3+{TEXT}"
    nets = load_targets([defended, TEXT, f"{TEXT}~fgsm-rs:8"], digits, 64, World())
    assert sorted(trained) == [TEXT, f"{TEXT}~fgsm-rs:8"]
    assert len(files(cache)) == 2
    assert undefended(nets[defended]) is nets[TEXT]
    assert nets[defended].frozen
    assert weights.digest(nets[TEXT]) != weights.digest(nets[f"{TEXT}~fgsm-rs:8"])


def test_clean_logits_are_computed_once_for_each_side(plain_digits, monkeypatch) -> None:
    net, split = plain_digits
    images = split.images[:20]
    asked, logits_of = [], targets.logits_of
    monkeypatch.setattr(targets, "logits_of", lambda n, x: asked.append(len(x)) or logits_of(n, x))
    clean = CleanLogits(net, images)
    indexes, flipped = np.array([3, 5, 3, 7]), np.array([False, True, True, False])
    found = clean(indexes, flipped)
    expected = net(to_unit(flip(images[indexes], flipped))).array
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(clean(indexes, flipped), found)
    clean(np.array([3, 5]), np.array([False, False]))
    assert asked == [4, 1]


def test_one_network_under_two_names_is_one_classifier() -> None:
    nets = [
        freeze(build(text, channels=1, classes=10, size=8, seed=0))
        for text in ("resnet8", "resnet8-w12")
    ]
    with pytest.raises(
        UsageError, match=r"'resnet8-w12' of the set 'tune' has the weights of 'resnet8'"
    ):
        check_distinct({"train": {"resnet8": nets[0]}, "tune": {"resnet8-w12": nets[1]}})
    check_distinct({"train": {"resnet8": nets[0]}, "tune": {}})


def test_defences_do_not_make_another_classifier() -> None:
    net = freeze(build("plain-w2", channels=1, classes=10, size=8, seed=0))
    defended = defend(net, split_defences("jpeg:50+x")[0])
    with pytest.raises(UsageError, match="of the set 'report' has the weights of 'a'"):
        check_distinct({"train": {"a": net}, "report": {"jpeg:50+b": defended}})
