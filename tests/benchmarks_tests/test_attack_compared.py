"""What is said of networks that were compared, from answers whose errors are known."""

import numpy as np
import pytest

from benchmarks.attack_compared import (
    FACTORS,
    Compared,
    cells,
    convergence,
    effects,
    specialists,
    tuning,
)  # fmt: skip
from objectives.measures import Answers

IMAGES = 200


def compared(part: str, errors: dict[tuple[str, int], float]) -> Compared:
    """Networks that fool one classifier on exactly that share of the images."""
    labels = np.zeros(IMAGES, np.int64)
    adversarial = {
        (name, epsilon, "net"): (np.arange(IMAGES) < round(share * IMAGES)).astype(np.int64)
        for (name, epsilon), share in errors.items()
    }
    return Compared(part, Answers(labels, {"net": labels}, adversarial, {}, {}), ["net"])


def factorial(noise: float = 0.0) -> Compared:
    """Hints add 20 points, several targets 10, several budgets nothing; a cell's two seeds lie `noise` apart."""
    shares = {}
    for on in np.ndindex(2, 2, 2):
        cell = "-".join(f"{factor}{level}" for factor, level in zip(FACTORS, on, strict=True))
        for seed in (1, 2):
            share = 0.3 + 0.1 * on[0] + 0.2 * on[2] + noise * (seed - 1.5)
            shares[f"{cell}-{seed}", 8] = share
    return compared("factorial", shares)


def test_effects_are_what_was_put_in() -> None:
    found = {claim.claim: claim.value for claim in effects(factorial())}
    assert found == pytest.approx(
        {
            f"factorial, eps 8: effect of {factor} on the mean error": points
            for factor, points in zip(FACTORS, (10, 0, 20), strict=True)
        }
    )


def test_their_intervals_hold_what_seeds_do() -> None:
    (claim, *_) = effects(factorial(noise=0.02))
    # Seeds lie 1 point from their mean in each of 8 cells: residual sqrt(16 / 8), and 2.306 of Student's t.
    half = 2.306 * 2**0.5 * (1 / 8 + 1 / 8) ** 0.5
    assert claim.note == (
        f"95 % {10 - half:+.1f} .. {10 + half:+.1f}; pooled residual 1.41 points, 8 degrees of freedom"
    )


def test_cells_take_their_seeds_together() -> None:
    (claim, *rest) = cells(compared("seeds", {("a-1", 8): 0.5, ("a-2", 8): 0.6, ("b-1", 8): 0.1}))
    assert (claim.claim, claim.value) == ("seeds, a, eps 8: mean error over the report set", 55)
    assert claim.note == "2 seeds, 50.0 .. 60.0"
    assert len(rest) == 1


@pytest.mark.parametrize(("ours", "met"), [(0.6, True), (0.5, True), (0.4, False)])
def test_one_network_is_held_against_a_specialist_at_its_own_budget(ours: float, met: bool) -> None:
    shares = {
        (f"{cell}-{seed}", epsilon): ours if cell == "all" else 0.5
        for cell in ("all", "eps04") for seed in (1, 2, 3) for epsilon in (4, 8)
    }  # fmt: skip
    (claim,) = specialists(compared("specialists", shares))
    assert claim.claim.startswith("one network for all budgets above specialists, eps 4:")
    assert claim.met is met
    assert claim.note.startswith(f"{100 * (ours - 0.5):+.1f} points")


def test_a_winner_is_held_against_the_default_and_a_random_winner() -> None:
    errors = {"winner": 0.56, "default": 0.5, "random-winner": 0.58}
    shares = {(f"{cell}-1", e): share for cell, share in errors.items() for e in (4, 8)}
    default, random = tuning(compared("seeds", shares))
    assert (round(default.value, 6), default.met) == (6, True)
    assert (round(random.value, 6), random.met) == (-2, False)
    assert default.note.startswith("+6.0 (")
    assert " at 4, +6.0 (" in default.note


def test_seeds_converge_at_twice_the_error_of_noise() -> None:
    claim = convergence([0.5, 0.39], noise=0.2, iterated=0.55)
    assert (claim.value, claim.goal, claim.met) == (1, 2, False)
    assert claim.note == "50.0, 39.0 %; noise 20.0 %, MI-FGSM 55.0 %"
