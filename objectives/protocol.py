"""What an attack knew of the classifier that judges it; docs/protocol.md is the protocol itself."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from models import weights
from models.classifiers import ARCHITECTURES, Classifier, split_training, undefended
from models.classifiers.foreign import Foreign
from models.classifiers.resize import Resized
from models.defences import split_defences
from objectives.targets import identities, parse_target

__all__ = ["family", "relation", "seen_by_baseline", "seen_by_network"]


def family(text: str, classifier: Classifier | None = None) -> str:
    """Return the kind of network, such as `resnet`; empty where it cannot be told.

    Args:
        text: of a classifier; those of ARCHITECTURES tell their family.
        classifier: the network itself, whose class tells it for all others.
    """
    if classifier is not None:
        inner = undefended(classifier)
        inner = inner.classifier if isinstance(inner, Resized) else inner
        inner = inner.chain if isinstance(inner, Foreign) else inner
        return type(inner).__name__.lower()
    name, _ = split_training(parse_target(split_defences(text)[1])[0])
    matched = re.match(r"[a-z]+", name)
    return matched[0] if matched and name.partition("-")[0] in ARCHITECTURES else ""


def relation(
    text: str,
    seen: Sequence[str],
    known: Mapping[str, Classifier],
    digests: Collection[str] = (),
) -> str:
    """Say how a classifier stands to those that an attack was trained and tuned on.

    Args:
        text: the classifier that judges.
        seen: the classifiers whose gradients or answers went into the attack, and defences before them.
        known: networks by text, where they are at hand.
        digests: sha256 of the weights of those that went into the attack, where they were written down: a
            file that was moved is still the same classifier.

    Returns:
        `seen`: the same weights, defended or not, or behind a kind of defence that was used;
        `family`: other weights of the same architecture; `cross`: neither.
    """
    used = {defence.name for each in seen for defence in split_defences(each)[0]}
    behind = {defence.name for defence in split_defences(text)[0]}
    same = text in known and bool(digests) and weights.digest(undefended(known[text])) in digests
    if same or identities([text]) & identities(seen) or used & behind:
        return "seen"
    families = {family(each, known.get(each)) for each in seen} - {""}
    return "family" if family(text, known.get(text)) in families else "cross"


def seen_by_baseline(name: str, targets: Sequence[str]) -> tuple[str, ...]:
    """Return what a baseline's gradients come from; `di-` shrinks and pads, as the defence `resize` does."""
    return _with_diversity(targets, "di" in name.partition(":")[0].split("-"))


def seen_by_network(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the classifiers that an attack package's record says it was trained and tuned on."""
    conditions = record.get("conditions", {})
    seen = (*conditions.get("train", ()), *conditions.get("tune", ()))
    return _with_diversity(seen, record.get("spec", {}).get("augment", {}).get("diversity", 0) > 0)


def _with_diversity(seen: Sequence[str], diverse: bool) -> tuple[str, ...]:
    return (*seen, *(f"resize:0.8+{text}" for text in seen if diverse))
