"""`make bench-attack-steps`: how far an attack should climb, judged by a train classifier that is left out for it.

What `make release-attack` sets after training is chosen here: one short training, attacked with after so many steps of
such a gain, and of another where the small classifiers take a turn (`benchmarks.attack_left_out`). So is how far the
attack climbs that is compared with the best baseline.
"""

import os
from itertools import product

from benchmarks.attack_baseline import MI_FGSM, tuned
from benchmarks.attack_classifiers import SUFFIX
from benchmarks.attack_left_out import EPSILONS, Climb, left_out
from benchmarks.claims import Claim, write
from objectives.evaluation import Attack, network_attack

__all__ = ["main"]

QUICK = bool(os.environ.get("QUICK"))
NAME = f"attack_steps{SUFFIX}{'_quick' if QUICK else ''}"
TRAINED, SHOWN = (64, 20) if QUICK else (10_016, 500)
# The turn of those that are asked beside the first is the fourth, the eighth, ..
CLIMBS = [
    Climb(steps, gain, beside_gain)
    for counts, gains, beside_gains in (
        ((1, 2, 3), (2.5, 4.0, 6.0), (0.0,)),
        ((4,), (4.0, 6.0), (0.0, 1.0, 2.0, 4.0)),
        ((8, 12, 16), (4.0,), (2.0, 4.0)),
    )
    for steps, gain, beside_gain in product(counts, gains, beside_gains)
]


def main() -> None:
    judging = left_out(quick=QUICK, images=TRAINED, shown=SHOWN)
    network = judging.train(1)
    texts = [MI_FGSM, *filter(None, [tuned()])]
    attacks: dict[str, Attack] = {text: judging.iterated(text) for text in texts}
    attacks["no steps"] = network_attack(network)
    attacks |= {str(climb): judging.climbing(network, climb) for climb in CLIMBS}
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
