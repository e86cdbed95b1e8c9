"""`make bench-attack-steps`: how far an attack should climb, judged by a train classifier that is left out for it.

What `make release-attack` sets after training is chosen here: a short training of the benchmark's recipe without the
second train classifier, which is shown tune images attacked with so many steps of such a gain, itself and resized, beside
the tune classifiers. Those alone are weak and of families far from the hint's; they see no difference that this one sees
(docs/decisions/0029, 0033).
"""

import os
from dataclasses import replace
from itertools import product

import numpy as np

from benchmarks.attack_baseline import MI_FGSM
from benchmarks.attack_cells import spec_of
from benchmarks.attack_classifiers import SUFFIX, conditions, leave_one_out
from benchmarks.claims import Claim, write
from models.generators import AttackNetwork
from objectives.attack import AttackObjective
from objectives.baselines import baseline
from objectives.evaluation import Attack, error_rates, network_attack
from objectives.retraining import retrain
from objectives.targets import load_targets
from study.world import World

__all__ = ["main"]

QUICK = bool(os.environ.get("QUICK"))
NAME = f"attack_steps{SUFFIX}{'_quick' if QUICK else ''}"
TRAINED, SHOWN = (64, 20) if QUICK else (10_016, 300)
STEPS, GAINS = (1, 2, 3), (2.5, 4.0, 6.0, 9.0)
EPSILONS = (4, 8, 16)


def main() -> None:
    given = leave_one_out(conditions(quick=QUICK, images=TRAINED, reports=1))
    objective = AttackObjective(**given.model_dump())
    spec = spec_of(given, **{"hint.beside": dict.fromkeys(given.train[1:], True)})
    network = retrain(objective, spec, 1, World(), {"part": "steps"}).network
    nets = load_targets(
        (*given.train, *given.tune), objective.data, given.classifier_images, World()
    )
    judges = [nets[text] for text in given.tune]
    shown = objective.data.tune.evenly(SHOWN)
    plain = baseline(MI_FGSM, [nets[text] for text in given.train])
    attacks = {MI_FGSM: plain, "no steps": network_attack(network), **_climbing(network)}

    def errors(attack: Attack) -> list[float]:
        rates = error_rates(attack, judges, shown.images, shown.labels, EPSILONS, World())
        return [float(100 * rate) for rate in rates.mean(axis=1)]

    found = {name: errors(attack) for name, attack in attacks.items()}
    claims = [
        Claim(
            f"{name}: mean error over epsilon {', '.join(map(str, EPSILONS))}", float(np.mean(each)), "%",
            note=", ".join(f"{rate:.1f} % at {epsilon}" for epsilon, rate in zip(EPSILONS, each, strict=True)),
        )
        for name, each in found.items()
    ]  # fmt: skip
    facts = {
        "network": f"the benchmark's recipe, {TRAINED:,} images, trained on {len(given.train)} classifiers",
        "judges": "the second train classifier, which it was not trained on, itself and resized; and the tune classifiers",
        "images": f"{SHOWN} tune images",
    }
    write(NAME, claims, facts, "bench-attack-steps")


def _climbing(network: AttackNetwork) -> dict[str, Attack]:
    """Return the network as it attacks with each number of steps and each gain; all of the hint's classifier."""
    return {
        f"{steps} {'step' if steps == 1 else 'steps'} of gain {gain:g}": network_attack(
            _with(network, steps, gain)
        )
        for steps, gain in product(STEPS, GAINS)
    }


def _with(network: AttackNetwork, steps: int, gain: float) -> AttackNetwork:
    other = network.copy(mode="share")
    other.hint = replace(network.hint, steps=steps, gain=gain)
    return other


if __name__ == "__main__":
    main()
