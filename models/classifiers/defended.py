"""A classifier behind defences: what it is shown is transformed first."""

from collections.abc import Sequence
from typing import Any

import chainer

from models.classifiers.classifier import Classifier
from models.defences import Defence

__all__ = ["Defended", "defend", "undefended"]


class Defended(Classifier):
    """A classifier that sees its images through defences.

    Args:
        classifier: the classifier; its weights are shared, not copied.
        defences: in the order of their use, >= 1.
    """

    def __init__(self, classifier: Classifier, defences: Sequence[Defence]) -> None:
        super().__init__(classifier.channels, classifier.classes, classifier.size, mean=None)
        self.defences = tuple(defences)
        with self.init_scope():
            self.classifier = classifier

    def forward(self, x: Any) -> chainer.Variable:
        """Return the logits of the classifier inside for the defended images; see `Classifier`."""
        self._check(x)
        with self._mode():
            return self.classifier(self._defended(chainer.as_variable(x)))

    def stages(self, h: chainer.Variable) -> tuple[chainer.Variable, ...]:
        """Return the features of the classifier inside for the defended images."""
        return self.classifier.features(self._defended(h))

    def head(self, h: chainer.Variable) -> chainer.Variable:
        """Return the logits of the classifier inside."""
        return self.classifier.head(h)

    def _defended(self, h: chainer.Variable) -> chainer.Variable:
        for defence in self.defences:
            h = defence(h)
        return h


def defend(classifier: Classifier, defences: Sequence[Defence]) -> Classifier:
    """Return the classifier behind `defences`; itself when there are none."""
    return Defended(classifier, defences) if defences else classifier


def undefended(classifier: Classifier) -> Classifier:
    """Return the classifier without its defences: the one that owns the weights."""
    while isinstance(classifier, Defended):
        classifier = classifier.classifier
    return classifier
