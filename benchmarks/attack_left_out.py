"""A short training without the second train classifier, which judges it beside the tune classifiers on tune images.

What is set after a training (`make bench-attack-steps`) and what it is told (`make bench-attack-recipe`) is chosen so. The
tune classifiers alone are weak and of families far from the hint's; they see no difference that this one sees
(docs/decisions/0029, 0033).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.attack_cells import spec_of
from benchmarks.attack_classifiers import conditions, leave_one_out, robust, standard
from models.classifiers import Classifier
from models.generators import AttackNetwork
from models.hints import Hint
from objectives.attack import AttackObjective
from objectives.baselines import baseline
from objectives.evaluation import Attack, error_rates, network_attack
from objectives.retraining import retrain
from objectives.targets import load_targets, parse_target
from study.world import World

__all__ = ["EPSILONS", "Climb", "LeftOut", "by_turns", "left_out"]

EPSILONS = (4, 8, 16)


class Climb(NamedTuple):
    """How far an attack climbs after a network's own pass; see `models.hints.Hint`."""

    steps: int
    gain: float
    beside_gain: float = 0.0

    def __str__(self) -> str:
        beside = f", {self.beside_gain:g} of those beside" if self.beside_gain else ""
        return (
            f"{self.steps} {'step' if self.steps == 1 else 'steps'} of gain {self.gain:g}{beside}"
        )


@dataclass(frozen=True, eq=False)
class LeftOut:
    """Conditions with a train classifier left out, and what judges under them.

    Attributes:
        objective: trains under the conditions.
        nets: train and tune classifiers by their text; the tune classifiers judge.
        shown: how many tune images they are shown.
    """

    objective: AttackObjective
    nets: Mapping[str, Classifier]
    shown: int

    def train(self, seed: int, **changes: Any) -> AttackNetwork:
        """Return a network of the benchmark's recipe with these changes; its hint asks all standard train classifiers."""
        given = self.objective.conditions
        asked = {"hint.beside": dict.fromkeys(standard(given.train[1:]), True)}
        spec = spec_of(given, **asked, **changes)
        return retrain(self.objective, spec, seed, World(), {"part": "left out"}).network

    def climbing(self, network: AttackNetwork, climb: Climb) -> Attack:
        """Return the network as it attacks with these steps, by turns as the released one.

        What is left out would take the second step; the hint's own classifier takes it.
        """
        train, hint = self.objective.conditions.train, network.hint
        second = by_turns((train[0], *robust(train)), self.nets)
        other = network.copy(mode="share")
        other.hint = replace(hint, second=second, **climb._asdict())
        return network_attack(other)

    def iterated(self, text: str) -> Attack:
        """Return a baseline of the train classifiers."""
        return baseline(text, [self.nets[each] for each in self.objective.conditions.train])

    def errors(self, attack: Attack) -> NDArray[np.float64]:
        """Return the errors of an attack in percent, (EPSILONS, judges)."""
        judges = [self.nets[text] for text in self.objective.conditions.tune]
        images = self.objective.data.tune.evenly(self.shown)
        return 100 * error_rates(attack, judges, images.images, images.labels, EPSILONS, World())

    @property
    def facts(self) -> dict[str, str]:
        """What a table says of them."""
        given = self.objective.conditions
        return {
            "trained": f"on {given.images:,} images and {len(given.train)} classifiers",
            "judges": "the second train classifier, which is none of them, itself and resized; and the tune classifiers",
            "images": f"{self.shown} tune images",
        }


def left_out(*, quick: bool, images: int, shown: int) -> LeftOut:
    """Return the benchmark's conditions for short trainings.

    Args:
        quick: see `benchmarks.attack_classifiers.conditions`.
        images: that a training sees.
        shown: tune images that the judges see.
    """
    # What a training itself says of its end is of no use here, and costs little on one image.
    given = leave_one_out(conditions(quick=quick, images=images, tune_images=1, reports=1))
    objective = AttackObjective(**given.model_dump())
    nets = load_targets(
        (*given.train, *given.tune), objective.data, given.classifier_images, World()
    )
    return LeftOut(objective, nets, shown)


def by_turns(texts: Sequence[str], nets: Mapping[str, Classifier]) -> Hint:
    """Return the first of these classifiers as one that takes a step of an attack, with the others after it.

    Args:
        texts: of the classifiers, one or more.
        nets: the classifiers by their text.
    """
    first, *others = texts
    second = by_turns(others, nets) if others else None
    return Hint("input", parse_target(first)[0], nets[first], second=second)
