"""Classifier sets: train or load what a study names, once per machine, and keep the sets apart."""

import json
import logging
import os
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import device, weights
from models.classifiers import (
    READY,
    Classifier,
    build,
    defend,
    freeze,
    is_trained_on,
    split_training,
    undefended,
)
from models.classifiers.resnet import ResNet
from models.defences import split_defences
from objectives.adversary import Adversary, split_adversary
from objectives.boosters import flip
from objectives.classifier import ClassifierSpec, train_classifier
from objectives.data import DataSet
from objectives.evaluation import logits_of
from study.errors import UsageError
from study.world import World

__all__ = [
    "CleanLogits",
    "cache_folder",
    "check_disjoint",
    "check_distinct",
    "identities",
    "load_targets",
    "parse_target",
]

_DEFAULT_SEED = 0
# What brings its weights is trained on at this rate, on one of so many of the images that others see.
_GENTLE_RATE, _GENTLE = 1e-3, 5
# Seconds of training between two places where ranks meet.
_TOGETHER = 0.5
_LOG = logging.getLogger("jigsaw.targets")


def cache_folder() -> Path:
    """Return where trained classifiers are kept: `$JIGSAW_CACHE`, else `~/.cache/jigsaw`."""
    base = os.environ.get("JIGSAW_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(base) if base else home / "jigsaw"


def parse_target(text: str) -> tuple[str, int]:
    """Split `resnet8@3` into the classifier's text and the seed it is trained with (0 if left out).

    Raises:
        UsageError: what follows the @ is no seed.
    """
    name, at, seed = text.rpartition("@")
    if not at or "/" in seed:  # an @ inside a path is no mark of a seed
        return text, _DEFAULT_SEED
    if not seed.isdecimal():
        raise UsageError(
            f"classifier {text!r}: {seed!r} after @ is no seed; allowed: an integer >= 0"
        )
    return name, int(seed)


def load_targets(
    texts: Iterable[str],
    data: DataSet,
    images: int,
    world: World,
) -> dict[str, Classifier]:
    """Return frozen classifiers by their text, training those this machine has never trained.

    What is missing is dealt out: every rank trains its share alone, then all exchange weights, so that ranks
    need no shared file system. A defended classifier is the undefended one, shown other images.

    Args:
        texts: classifiers, such as `resnet8`, `vgg@1`, `npz:PATH`, `jpeg:50+vgg`, `resnet8~pgd:8`, or
            `npz:PATH~fgsm-rs:1`, a residual network that is trained on from the weights in the file.
        data: what they are trained on.
        images: training images each sees; what is trained on from weights sees a fifth of them.
        world: the ranks that share the work.

    Raises:
        UsageError: a classifier cannot be built, or one that brings its weights differs between ranks.
    """
    parts = {text: split_defences(text) for text in sorted(set(texts))}
    nets = _load_undefended(sorted({base for _, base in parts.values()}), data, images, world)
    return {
        text: freeze(device.send(defend(nets[base], used))) for text, (used, base) in parts.items()
    }


def _load_undefended(
    wanted: Sequence[str], data: DataSet, images: int, world: World
) -> dict[str, Classifier]:
    nets = {text: _build(text, data) for text in wanted}
    trained = [text for text in wanted if not _ready(text)]
    _check_same({text: nets[text] for text in wanted if _ready(text)}, world)
    paths = {text: _path(text, data, images) for text in trained}
    present = world.allgather({text: paths[text].is_file() for text in trained})
    missing = [text for text in trained if not all(rank[text] for rank in present)]
    _train_dealt(missing[world.rank :: world.size], nets, data, images, world)
    _exchange(missing, nets, world)
    for text in trained:
        _keep(text, nets[text], paths[text], text in missing)
    return {text: freeze(net) for text, net in nets.items()}


class CleanLogits:
    """A frozen target's logits on clean images, each computed once in the life of a process.

    Args:
        target: a frozen classifier.
        images: uint8 (N, C, H, W).
    """

    def __init__(self, target: Classifier, images: NDArray[np.uint8]) -> None:
        self._target, self._images = target, images
        self._known = np.zeros((2, len(images)), dtype=bool)
        self._logits = np.zeros((2, len(images), target.classes), dtype=np.float32)

    def __call__(
        self, indexes: NDArray[np.intp], flipped: NDArray[np.bool_]
    ) -> NDArray[np.floating]:
        """Return logits (n, classes) of the images at `indexes` (n,), mirrored where `flipped` (n,)."""
        side = flipped.astype(int)
        new = np.flatnonzero(~self._known[side, indexes])
        if len(new):
            images = flip(self._images[indexes[new]], flipped[new])
            self._logits[side[new], indexes[new]] = logits_of(self._target, images)
            self._known[side[new], indexes[new]] = True
        logits: NDArray[np.floating] = self._logits[side, indexes]
        return logits


def check_disjoint(sets: Mapping[str, Sequence[str]]) -> None:
    """Check that no classifier is in two sets: what is tuned on must not be reported on.

    A defended classifier is the undefended one, and a kind of defence is itself in a set: one that
    was trained or tuned on is no news in a report, whatever its strength.

    Raises:
        UsageError: a classifier or a kind of defence is in two sets.
    """
    owner: dict[Any, str] = {}
    for name, texts in sets.items():
        for text in texts:
            used, base = split_defences(text)
            key = _identity(base)
            if owner.setdefault(key, name) != name:
                raise UsageError(
                    f"classifier {text!r} is in the sets {owner[key]!r} and {name!r}; the sets must be disjoint"
                )
            for kind in (defence.name for defence in used):
                if owner.setdefault(kind, name) != name:
                    raise UsageError(
                        f"defence {kind!r} of {text!r} is in the sets {owner[kind]!r} and {name!r}; "
                        "the sets must be disjoint in defences too"
                    )


def check_distinct(sets: Mapping[str, Mapping[str, Classifier]]) -> None:
    """Check that no two sets hold the same weights, whatever their classifiers are called, defended or not.

    Raises:
        UsageError: two sets share a classifier.
    """
    owner: dict[str, tuple[str, str]] = {}
    for name, classifiers in sets.items():
        for text, classifier in classifiers.items():
            digest = weights.digest(undefended(classifier))
            first, other = owner.setdefault(digest, (name, text))
            if first != name:
                raise UsageError(
                    f"classifier {text!r} of the set {name!r} has the weights of {other!r} of the set "
                    f"{first!r}; the sets must be disjoint"
                )


def identities(texts: Iterable[str]) -> set[Any]:
    """Return what tells classifiers apart, however they are written and whatever defends them."""
    return {_identity(split_defences(text)[1]) for text in texts}


def _identity(text: str) -> tuple[str, Adversary | None, int]:
    """Return what is the same for two ways of writing one classifier, apart from its defences."""
    name, seed = parse_target(text)
    name, adversary = split_adversary(name)
    kind = _ready(name)
    if kind in ("npz:", "onnx:"):
        # Trained on or not, and with whatever seed: it comes from the same weights.
        return f"{kind}{Path(name.removeprefix(kind)).resolve()}", None, _DEFAULT_SEED
    place, _, what = name.removeprefix(kind).rpartition(":")
    known = f"{kind}{Path(place).resolve()}:{what}" if place.endswith(".py") else name
    return known, adversary, seed


def _ready(text: str) -> str:
    """Return how the text of a classifier with weights begins, nothing for one to be trained."""
    if is_trained_on(parse_target(text)[0]):
        return ""
    return next((kind for kind in READY if text.startswith(kind)), "")


def _check_same(ready: Mapping[str, Classifier], world: World) -> None:
    digests = {text: weights.digest(net) for text, net in ready.items()}
    for rank, others in enumerate(world.allgather(digests)):
        for text, digest in digests.items():
            if others[text] != digest:
                raise UsageError(
                    f"classifier {text!r} has other weights on rank {rank} than on rank {world.rank}: "
                    "expected the same files on every machine"
                )


def _build(text: str, data: DataSet) -> Classifier:
    name, seed = parse_target(text)
    shape = data.train.images.shape
    net = build(name, channels=shape[1], classes=len(data.classes), size=shape[2], seed=seed)
    split_adversary(name)  # refuses what names none before anything is trained
    if is_trained_on(name) and not isinstance(net, ResNet):
        raise UsageError(
            f"classifier {text!r} brings weights that cannot be trained on; allowed before ~: an "
            "architecture of models.classifiers, or npz:PATH of a residual network of CIFAR's size"
        )
    return device.send(net)


def _train_dealt(
    mine: Sequence[str], nets: Mapping[str, Classifier], data: DataSet, images: int, world: World
) -> None:
    """Train this rank's classifiers one after another; all ranks meet again and again until all are done.

    Only what all ranks do together hears a signal, learns of an error elsewhere, and shows that a rank
    that waits waits for something.
    """
    with closing(_training(mine, nets, data, images)) as training:
        while not all(world.allgather(_is_over(training))):
            pass


def _is_over(training: Generator[int]) -> bool:
    """Train on until it is time to meet; return whether nothing is left."""
    until = time.monotonic() + _TOGETHER
    return all(time.monotonic() < until for _ in training)


def _training(
    mine: Sequence[str], nets: Mapping[str, Classifier], data: DataSet, images: int
) -> Generator[int]:
    for text in mine:
        _LOG.info("training classifier %s on %d images of %s", text, images, data.name)
        name, seed = parse_target(text)
        spec, seen = _training_of(name, images)
        for update in train_classifier(spec, data, seen, seed, World()):
            yield update[0]
        nets[text].copyparams(update[1])
        # Minutes of training are kept, whatever becomes of the next one.
        _keep(text, nets[text], _path(text, data, images), new=True)


def _exchange(missing: Sequence[str], nets: Mapping[str, Classifier], world: World) -> None:
    mine = {text: weights.arrays(nets[text]) for text in missing[world.rank :: world.size]}
    for arrays in world.allgather(mine):
        for text, values in arrays.items():
            weights.assign(nets[text], values, f"the weights of {text}")


def _keep(text: str, net: Classifier, path: Path, new: bool) -> None:
    if not new:
        weights.load(path, net)
    elif not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        weights.save(path, net)


def _training_of(name: str, images: int) -> tuple[ClassifierSpec, int]:
    """Return how a classifier is trained, and on how many images: gently where it brings weights."""
    if is_trained_on(name):
        return ClassifierSpec(classifier=name, lr=_GENTLE_RATE, cast=0.0), -(-images // _GENTLE)
    return ClassifierSpec(classifier=name), images


def _path(text: str, data: DataSet, images: int) -> Path:
    """Name the file by everything that decides its content."""
    name, seed = parse_target(text)
    spec, seen = _training_of(name, images)
    made_of = [spec.model_dump(), seed, seen, data.digest, _source_digest(name)]
    key = sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
    plain = "".join(c if c.isalnum() or c in "-_" else "-" for c in Path(name).name)
    return cache_folder() / "classifiers" / f"{plain}-{key}.npz"


def _source_digest(name: str) -> str:
    """A user's own file may change under the same name."""
    text, _ = split_training(name)
    if is_trained_on(name):
        return sha256(Path(text.removeprefix("npz:")).read_bytes()).hexdigest()
    place = Path(text.rpartition(":")[0])
    known = place.suffix == ".py" and place.is_file()
    return sha256(place.read_bytes()).hexdigest() if known else ""
