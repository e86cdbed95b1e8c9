"""The attack package: one folder that holds a trained attack network and says how it was made.

    package.json   what `load` reads: network, weights' hash, and the whole record
    weights.npz    parameters
    hint.npz       the classifier that the network takes hints from, if any
    second.npz     the one that takes turns with it, if any, and second-2.npz and so on the ones after that
    beside-1.npz   and so on: those that are asked beside it, if any
    CARD.md        the same record for people

It loads with no database, no data set and no MPI.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models import classifiers, weights
from models.classifiers import is_trained_on, pretrained
from models.generators import AttackNetwork, Epsilons, build, parse_arch
from models.hints import Hint, is_carried
from models.released import RELEASED, package_folder
from study.errors import DataError, UsageError
from study.objective import explain

__all__ = ["Card", "HintCard", "check_folder", "describe", "load_package", "save_package"]

_FORMAT = 1
_SECOND = "second.npz"
_FILES = frozenset(("CARD.md", "hint.npz", "package.json", _SECOND, "weights.npz"))
_FURTHER = "second-*.npz"
_BESIDE = "beside-*.npz"


class HintCard(BaseModel):
    """Where a network's hints come from.

    Attributes:
        kind: see `models.hints.Hint`.
        classifier: its architecture, or npz:NAME where hint.npz is a pretrained network's own file.
        classes: number of its logits.
        size: height and width of the images it was made for, in pixels.
        weights: sha256 of its arrays.
        steps: see `models.hints.Hint`.
        gain: see `models.hints.Hint`.
        second: the same facts of the classifier in second.npz, if any, which may have a second in second-2.npz.
        beside: the same facts of the classifiers in beside-1.npz, beside-2.npz, ..
        beside_gain: see `models.hints.Hint`.
    """

    model_config = ConfigDict(frozen=True)

    kind: Literal["input", "multiscale"]
    classifier: str
    classes: int = Field(ge=2)
    size: int = Field(ge=1)
    weights: str
    steps: int = Field(0, ge=0)
    gain: float = Field(1.0, gt=0)
    second: "HintCard | None" = None
    beside: "tuple[HintCard, ...]" = ()
    beside_gain: float = Field(0.0, ge=0)


class Card(BaseModel):
    """What a package says about itself.

    Attributes:
        format: version of this layout.
        arch: the generator and its parameters.
        epsilons: the budgets the network is made for.
        channels: of its images.
        weights: sha256 of the parameters.
        hint: where the network's hints come from; None for a network without.
        record: how it was made: spec, seed, data, classifier sets, budget, versions, commit.
        errors: measured error rates, one row per (attack, epsilon, classifier).
    """

    model_config = ConfigDict(frozen=True)

    format: int = Field(_FORMAT, ge=1, le=_FORMAT)
    arch: dict[str, Any]
    epsilons: Epsilons
    channels: int = Field(ge=1)
    weights: str
    hint: HintCard | None = None
    record: dict[str, Any] = {}
    errors: list[dict[str, Any]] = []

    @property
    def digest(self) -> str:
        """sha256 of what decides its images: equal weights attack otherwise with another hint."""
        facts = self.model_dump(include={"arch", "epsilons", "channels", "weights", "hint"})
        hint = facts["hint"]
        while hint:  # what does without is called what it was before these were known
            for each in (hint, *hint["beside"]):
                if not each["beside_gain"]:
                    del each["beside_gain"]
            if not hint["beside"]:
                del hint["beside"]
            hint = hint["second"]
        return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def check_folder(folder: Path) -> None:
    """Check that a package may be written to `folder`: nothing stands there, or a package and nothing else.

    Raises:
        UsageError: something stands there that must not be replaced.
    """
    if folder.exists() and not _is_package(folder):
        raise UsageError(
            f"package folder {str(folder)!r} exists and is no attack package; name another"
        )


def describe(
    network: AttackNetwork,
    record: Mapping[str, Any] = MappingProxyType({}),
    errors: Sequence[dict[str, Any]] = (),
) -> Card:
    """Return the card of a network; see `save_package` for the arguments."""
    return Card(
        arch=network.arch.model_dump(), epsilons=Epsilons.model_validate(_budgets(network)),
        channels=network.channels, weights=weights.digest(network),
        hint=_hint_card(network.hint) if network.hint else None,
        record=dict(record), errors=list(errors),
    )  # fmt: skip


def save_package(
    folder: Path,
    network: AttackNetwork,
    record: Mapping[str, Any],
    errors: Sequence[dict[str, Any]] = (),
) -> Card:
    """Write a package, whole or not at all; one that stands there already is replaced.

    Args:
        folder: where; its parent is created.
        network: a trained attack network.
        record: how it was made, as JSON values.
        errors: measured error rates, as JSON rows.

    Raises:
        UsageError: the folder exists and is not an attack package alone.
    """
    folder = folder.resolve()
    check_folder(folder)
    card = describe(network, record, errors)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as beside:
        fresh = Path(beside, "new")
        fresh.mkdir()
        weights.save(fresh / "weights.npz", network)
        for name, hint in _hints(network.hint):
            _save_hint(fresh / name, hint)
        (fresh / "package.json").write_text(card.model_dump_json(indent=1) + "\n")
        (fresh / "CARD.md").write_text(_markdown(card, network))
        if folder.exists():
            folder.rename(Path(beside, "old"))
        fresh.rename(folder)
    return card


def load_package(folder: Path, *, steps: int | None = None) -> tuple[AttackNetwork, Card]:
    """Load a package.

    Args:
        folder: where it lies, or the name of a released one (see `models.released`).
        steps: how far each attack climbs its hint's doubt (`models.hints`), >= 0; None for as far as the
            package says.

    Returns:
        the network, and the card of the package as it attacks with these steps.

    Raises:
        DataError: a file is missing or damaged, or the weights are not the ones the card describes.
        UsageError: there are steps, and the package has no hint.
    """
    folder = package_folder(folder)
    path = folder / "package.json"
    if not path.is_file():
        released = f", or a released network: {', '.join(RELEASED)}" if RELEASED else ""
        raise DataError(
            f"package {str(folder)!r} has no package.json; expected a folder made by `jigsaw package STUDY "
            f"FOLDER`{released}"
        )
    card = _with_steps(_read_card(path), folder, steps)
    hint = _load_hint(folder / "hint.npz", card.hint, card.channels) if card.hint else None
    network = build(parse_arch(card.arch), card.epsilons, channels=card.channels, seed=0, hint=hint)
    weights.load(folder / "weights.npz", network)
    if weights.digest(network) != card.weights:
        raise DataError(f"package {str(folder)!r}: weights.npz is not what package.json describes")
    return network, card


def _with_steps(card: Card, folder: Path, steps: int | None) -> Card:
    if steps is None:
        return card
    if card.hint is None:
        raise UsageError(f"steps is {steps}, and package {str(folder)!r} has no hint to climb")
    return card.model_copy(update={"hint": card.hint.model_copy(update={"steps": steps})})


def _is_package(folder: Path) -> bool:
    if not folder.is_dir() or not all(map(_is_own, folder.iterdir())):
        return False
    try:
        _read_card(folder / "package.json")
    except (DataError, OSError):
        return False
    return True


def _is_own(path: Path) -> bool:
    return path.name in _FILES or path.match(_BESIDE) or path.match(_FURTHER)


def _read_card(path: Path) -> Card:
    try:
        card = Card.model_validate(json.loads(path.read_bytes()))
        parse_arch(card.arch)
    except ValidationError as error:
        said = explain(error)
    except (UsageError, ValueError) as error:
        said = str(error)
    else:
        return card
    raise DataError(f"package file {str(path)!r} is damaged: {said}")


def _budgets(network: AttackNetwork) -> dict[str, Any]:
    return network.epsilons.model_dump(include=set(Epsilons.model_fields))


def _hint_card(hint: Hint) -> HintCard:
    own = hint.classifier
    # Of a path only the name: the file itself is in the package.
    text = f"npz:{Path(hint.text).name}" if hint.text.startswith("npz:") else hint.text
    return HintCard(
        kind=hint.kind, classifier=text, classes=own.classes, size=own.size,
        weights=weights.digest(own), steps=hint.steps, gain=hint.gain,
        second=_hint_card(hint.second) if hint.second else None,
        beside=tuple(_hint_card(other) for other in hint.beside), beside_gain=hint.beside_gain,
    )  # fmt: skip


def _hints(hint: Hint | None) -> Iterator[tuple[str, Hint]]:
    """Yield the files of a hint's classifiers and what goes into them."""
    if hint:
        yield "hint.npz", hint
        for k, other in enumerate(hint.turns[1:], start=1):
            yield _turn(k), other
        for k, other in enumerate(hint.beside, start=1):
            yield _beside(k), other


def _turn(number: int) -> str:
    return _SECOND if number == 1 else _FURTHER.replace("*", str(number))


def _beside(number: int) -> str:
    return _BESIDE.replace("*", str(number))


def _save_hint(path: Path, hint: Hint) -> None:
    if is_trained_on(hint.text):
        pretrained.save(path, hint.classifier)
    elif hint.text.startswith("npz:"):
        path.write_bytes(Path(hint.text.removeprefix("npz:")).read_bytes())
    else:
        weights.save(path, hint.classifier)


def _load_hint(path: Path, card: HintCard, channels: int, turn: int = 1) -> Hint:
    folder, shape = path.parent, {"channels": channels, "classes": card.classes, "size": card.size}
    if not path.is_file():
        raise DataError(f"package {str(folder)!r} has no {path.name}, which package.json describes")
    # Checked before anything is built: text of another form would name code to run.
    if not is_carried(card.classifier):
        raise DataError(
            f"package {str(folder)!r}: hint.classifier is {card.classifier!r}; allowed: an architecture "
            "of models.classifiers, or npz:NAME"
        )
    brought = card.classifier.startswith("npz:")
    text = f"npz:{path}" if brought else card.classifier
    try:
        classifier = classifiers.build(text, **shape, seed=0)
    except UsageError as error:
        raise DataError(f"package {str(folder)!r}: {error}") from None
    if not brought:
        weights.load(path, classifier)
    if weights.digest(classifier) != card.weights:
        raise DataError(f"package {str(folder)!r}: {path.name} is not what package.json describes")
    second = None
    if card.second:
        second = _load_hint(folder / _turn(turn), card.second, channels, turn + 1)
    beside = tuple(
        _load_hint(folder / _beside(k), other, channels)
        for k, other in enumerate(card.beside, start=1)
    )
    return Hint(
        card.kind, text, classifier, card.steps, card.gain, second, beside, card.beside_gain
    )


def _markdown(card: Card, network: AttackNetwork) -> str:
    lines = [
        "# Attack network",
        "",
        f"- generator: `{json.dumps(card.arch)}`, {network.count_params():,} parameters",
        f"- budgets: {', '.join(map(str, card.epsilons.trained))} of 255, mode `{card.epsilons.mode}`",
        f"- images: ({card.channels}, H, W), any height and width",
        f"- weights: sha256 `{card.weights}`",
    ]
    if card.hint and network.hint:
        lines.append(_hint_line(card.hint, _looks(network.hint)))
    lines += [
        f"- {key}: `{json.dumps(value, sort_keys=True)}`" for key, value in card.record.items()
    ]
    if card.errors:
        columns = list(card.errors[0])
        lines += ["", "| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
        lines += ["| " + " | ".join(_cell(row[c]) for c in columns) + " |" for row in card.errors]
    return "\n".join(lines) + "\n"


def _seconds(card: HintCard) -> list[HintCard]:
    return [card.second, *_seconds(card.second)] if card.second else []


def _looks(hint: Hint) -> int:
    """Return how often an attack asks a classifier."""
    return 1 + len(hint.beside) + sum(len(hint.asked(step)[0]) for step in range(1, hint.steps))


def _hint_line(card: HintCard, looks: int) -> str:
    passes = "one forward and one backward pass" if looks == 1 else f"{looks} passes there and back"
    climb = f" and {card.steps} steps of gain {card.gain:g}" if card.steps else ""
    if card.steps and card.beside_gain:
        climb += f" ({card.beside_gain:g} of those beside it)"
    own = f"`{card.classifier}` (hint.npz, sha256 `{card.weights}`)"
    others = [("beside", _beside(k), other) for k, other in enumerate(card.beside, start=1)]
    others += [
        ("by turns with", _turn(k), other) for k, other in enumerate(_seconds(card), start=1)
    ]
    turns = "".join(
        f", {how} `{other.classifier}` ({file}, sha256 `{other.weights}`)"
        for how, file, other in others
    )
    return (
        f"- hint: `{card.kind}`{climb} from {own}{turns}: besides the network's own pass, an attack costs "
        f"{passes} of such a classifier, and {1 + len(card.beside)} more for a second step of a recurrent "
        "generator"
    )


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
