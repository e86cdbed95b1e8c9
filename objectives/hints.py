"""Which classifier a spec's network takes hints from: never one that it is tuned or reported on."""

from collections.abc import Callable, Sequence

from models.classifiers import Classifier
from models.hints import Hint
from objectives.spec import HintSpec
from objectives.targets import parse_target
from study.errors import UsageError

__all__ = ["load_hint"]


def load_hint(
    spec: HintSpec, train: Sequence[str], load: Callable[[str], Classifier]
) -> Hint | None:
    """Return the hint that `spec` names, None for none.

    Args:
        spec: of the hint.
        train: the study's train classifiers, the only ones that may give hints.
        load: gives a classifier by its text.

    Raises:
        UsageError: a classifier of the hint is not in `train`, or is code of the user's own.
    """
    if spec.kind == "none" or spec.classifier is None:
        return None
    second = None
    if spec.second is not None:
        text, classifier = _named("second", spec.second, train, load)
        second = Hint("input", text, classifier)
    beside = tuple(
        Hint("input", *_named("beside", other, train, load))
        for other, asked in spec.beside.items()
        if asked
    )
    text, classifier = _named("classifier", spec.classifier, train, load)
    return Hint(
        spec.kind, text, classifier, spec.steps, spec.gain, second, beside, spec.beside_gain
    )


def _named(
    field: str, text: str, train: Sequence[str], load: Callable[[str], Classifier]
) -> tuple[str, Classifier]:
    if text not in train:
        raise UsageError(
            f"hint.{field} is {text!r}, and hints come from what the attack trains on; "
            f"allowed: {', '.join(train)}"
        )
    return parse_target(text)[0], load(text)
