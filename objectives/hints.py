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
        UsageError: the hint's classifier is not in `train`, or is code of the user's own.
    """
    if spec.kind == "none" or spec.classifier is None:
        return None
    if spec.classifier not in train:
        raise UsageError(
            f"hint.classifier is {spec.classifier!r}, and hints come from what the attack trains on; "
            f"allowed: {', '.join(train)}"
        )
    text = parse_target(spec.classifier)[0]
    return Hint(spec.kind, text, load(spec.classifier), spec.steps, spec.gain)
