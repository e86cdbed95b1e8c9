"""`make bench-attack-steps`: how far an attack should climb, judged by a train classifier that is left out for it.

What `make release-attack` sets after training is chosen here: one short training, attacked with after so many steps of
such a gain (`benchmarks.attack_left_out`).
"""

import os
from itertools import product

from benchmarks.attack_baseline import MI_FGSM
from benchmarks.attack_classifiers import SUFFIX
from benchmarks.attack_left_out import EPSILONS, left_out
from benchmarks.claims import Claim, write
from objectives.evaluation import Attack, network_attack

__all__ = ["main"]

QUICK = bool(os.environ.get("QUICK"))
NAME = f"attack_steps{SUFFIX}{'_quick' if QUICK else ''}"
TRAINED, SHOWN = (64, 20) if QUICK else (10_016, 300)
STEPS, GAINS = (1, 2, 3), (2.5, 4.0, 6.0, 9.0)


def main() -> None:
    judging = left_out(quick=QUICK, images=TRAINED, shown=SHOWN)
    network = judging.train(1)
    attacks: dict[str, Attack] = {MI_FGSM: judging.iterated, "no steps": network_attack(network)}
    attacks |= {
        f"{steps} {'step' if steps == 1 else 'steps'} of gain {gain:g}": judging.climbing(
            network, steps, gain
        )
        for steps, gain in product(STEPS, GAINS)
    }
    claims = []
    for name, attack in attacks.items():
        each = judging.errors(attack).mean(axis=1)
        claims.append(
            Claim(
                f"{name}: mean error over epsilon {', '.join(map(str, EPSILONS))}", float(each.mean()), "%",
                note=", ".join(f"{rate:.1f} % at {epsilon}" for epsilon, rate in zip(EPSILONS, each, strict=True)),
            )
        )  # fmt: skip
    write(
        NAME, claims, {"network": "the benchmark's recipe", **judging.facts}, "bench-attack-steps"
    )


if __name__ == "__main__":
    main()
