"""What an attack did, from the answers of classifiers: pure functions of arrays.

Of N images with classes y, a classifier f, and adversarial images x' that were rounded to 8 bits and
clipped to the budget:

    error     #(f(x') != y) / N, the NIPS'17 contest's measure: images wrong before the attack count
    gain      error - #(f(x) != y) / N: what the attack adds to doing nothing (`noop`)
    asr       #(f(x') != y and f(x) = y) / #(f(x) = y): attack success rate on clean-correct images
    fooling   #(f(x') != f(x)) / N
    l2, ssim  means over images: the norm of x' - x on [0, 1] images, and structural similarity (Wang et
              al. 2004, windows of 7 x 7 pixels, the mean over channels)

Intervals are 95 % bootstrap percentile intervals over images (Efron and Tibshirani 1993, ch. 13). All rows
are resampled alike, so that differences are paired. Several seeds of one attack are resampled crosswise
with the images (Owen 2007, "The pigeonhole bootstrap"). Where no image or every image is wrong the
bootstrap says nothing; the exact binomial interval stands in for it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from study.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Answers", "difference", "error_table", "perturbation_norms", "similarities"]

_RESAMPLES = 2000
_WINDOW = 7
_LIMITS = (2.5, 97.5)
_SEEDED = re.compile(r"(.+)-(\d+)")


@dataclass(frozen=True, eq=False)
class Answers:
    """Everything that was observed: the class each classifier gave to each image.

    Attributes:
        labels: the true classes, (N,).
        clean: by classifier, its answers to the clean images, (N,).
        adversarial: by (attack, epsilon, classifier), its answers to the adversarial images, (N,).
        l2: by (attack, epsilon), norms on [0, 1] images, (N,).
        ssim: by (attack, epsilon), structural similarities, (N,); NaN where images are too small.
        speed: by attack, images attacked per second; an attack that was not timed is not there.
        relation: by (attack, classifier), what the attack knew of the classifier: `seen`, `family`
            or `cross`; not there where that is not known.
    """

    labels: NDArray[np.integer]
    clean: Mapping[str, NDArray[np.integer]]
    adversarial: Mapping[tuple[str, int, str], NDArray[np.integer]]
    l2: Mapping[tuple[str, int], NDArray[np.floating]]
    ssim: Mapping[tuple[str, int], NDArray[np.floating]]
    speed: Mapping[str, float] = field(default_factory=dict)
    relation: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def wrong(self, attack: str, epsilon: int, classifier: str) -> NDArray[np.bool_]:
        """Return which images the classifier gets wrong under the attack, (N,)."""
        try:
            answers = self.adversarial[attack, epsilon, classifier]
        except KeyError:
            raise UsageError(
                f"attack {attack!r} was not scored at epsilon {epsilon} on {classifier!r}"
            ) from None
        wrong: NDArray[np.bool_] = answers != self.labels
        return wrong


def error_table(answers: Answers) -> "pd.DataFrame":
    """Return one row per (attack, epsilon, classifier); seeds of one attack follow, taken together.

    Attacks called `NAME-1`, `NAME-2`, ... are seeds of one attack and get rows of their own, called
    `NAME-1..K`, in which every number is the mean over seeds and the interval is over seeds and images.

    Returns:
        columns `attack, epsilon, classifier, error, low, high, gain, asr, worst, fooling, l2, ssim,
        images_per_second, relation, seeds, images`; see the module's own text, and
        `study.evaluations.add_worst` for `worst`.
    """
    # A trial needs none of these, and they take longer to import than all else here.
    import pandas as pd

    from study.evaluations import add_worst

    rows = [
        _row(answers, attack, [attack], epsilon, classifier)
        for attack, epsilon, classifier in answers.adversarial
    ]
    rows += [_row(answers, *together) for together in _seeds(answers)]
    return add_worst(pd.DataFrame(rows))


def difference(
    answers: Answers, first: Sequence[str], second: Sequence[str], epsilon: int, *classifiers: str
) -> tuple[float, float, float]:
    """Return by how much the error rate of one attack exceeds another's, with its 95 % interval.

    Args:
        answers: of both attacks on the same images; the bootstrap is paired over them.
        first: the seeds of an attack, such as ["mi-fgsm"] or ["mine-1", "mine-2"].
        second: the seeds of the attack that is subtracted.
        epsilon: the budget of both, in 1/255 units.
        classifiers: whose errors are compared; of several, their mean on each image.

    Returns:
        the difference, -1..1, and the ends of its interval. The first attack is not inferior to the
        second by the margin m when the lower end is above -m.

    Raises:
        UsageError: an attack was not scored so.
    """
    a, b = (
        np.stack([_share_wrong(answers, attack, epsilon, classifiers) for attack in attacks])
        for attacks in (first, second)
    )
    # Seeds of different attacks have nothing in common: each has draws of its own.
    low, high = np.percentile(_resampled(a, 1) - _resampled(b, 2), _LIMITS)
    return float(a.mean() - b.mean()), float(low), float(high)


def perturbation_norms(
    adversarial: NDArray[np.uint8], clean: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Return the L2 norm of each perturbation on [0, 1] images: (N, C, H, W) to (N,)."""
    delta = (adversarial.astype(np.float64) - clean) / 255
    norms: NDArray[np.float64] = np.sqrt((delta**2).sum(axis=(1, 2, 3)))
    return norms


def similarities(adversarial: NDArray[np.uint8], clean: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the structural similarity of each pair, (N, C, H, W) to (N,); NaN below 7 x 7 pixels."""
    if min(clean.shape[2:]) < _WINDOW:
        return np.full(len(clean), np.nan)
    from skimage.metrics import structural_similarity

    similarity: Any = structural_similarity
    return np.array(
        [
            similarity(a, b, win_size=_WINDOW, channel_axis=0, data_range=255)
            for a, b in zip(adversarial, clean, strict=True)
        ],
        dtype=np.float64,
    )


def _row(
    answers: Answers, name: str, attacks: list[str], epsilon: int, classifier: str
) -> dict[str, Any]:
    wrong = np.stack([answers.wrong(attack, epsilon, classifier) for attack in attacks])
    clean = answers.clean[classifier]
    correct = clean == answers.labels
    moved = np.stack([answers.adversarial[a, epsilon, classifier] != clean for a in attacks])
    error = float(wrong.mean())
    low, high = _interval(wrong)
    return {
        "attack": name, "epsilon": epsilon, "classifier": classifier,
        "error": error, "low": low, "high": high,
        "gain": error - float((~correct).mean()),
        "asr": float(wrong[:, correct].mean()) if correct.any() else np.nan,
        "fooling": float(moved.mean()),
        "l2": _mean([answers.l2[a, epsilon] for a in attacks]),
        "ssim": _mean([answers.ssim[a, epsilon] for a in attacks]),
        "images_per_second": _mean([answers.speed.get(a, np.nan) for a in attacks]),
        "relation": _relation([answers.relation.get((a, classifier), "") for a in attacks]),
        "seeds": len(attacks),
        "images": len(answers.labels),
    }  # fmt: skip


def _relation(each: list[str]) -> str:
    """What any of the seeds knew counts for all."""
    return next((word for word in ("seen", "family", "cross") if word in each), "")


def _mean(values: list[Any]) -> float:
    return float(np.mean(values))


def _seeds(answers: Answers) -> Iterator[tuple[str, list[str], int, str]]:
    """Yield (name, attacks, epsilon, classifier) of every group of seeds 1..K, K at least 2."""
    groups: dict[tuple[str, int, str], dict[int, str]] = {}
    for attack, epsilon, classifier in answers.adversarial:
        if matched := _SEEDED.fullmatch(attack):
            group = groups.setdefault((matched[1], epsilon, classifier), {})
            group[int(matched[2])] = attack
    for (name, epsilon, classifier), group in groups.items():
        # `resnet-8` and `resnet-16` are no seeds of one attack.
        if sorted(group) == list(range(1, len(group) + 1)) and len(group) > 1:
            yield f"{name}-1..{len(group)}", [group[k] for k in sorted(group)], epsilon, classifier


def _share_wrong(
    answers: Answers, attack: str, epsilon: int, classifiers: Sequence[str]
) -> NDArray[np.floating]:
    """Return which share of the classifiers gets each image wrong, (N,)."""
    share: NDArray[np.floating] = np.mean(
        [answers.wrong(attack, epsilon, classifier) for classifier in classifiers], axis=0
    )
    return share


def _interval(wrong: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the interval of the mean of (seeds, images)."""
    images = wrong.shape[1]
    if wrong.all() or not wrong.any():
        from scipy.stats import binomtest

        # Seeds share their images, so these alone are counted.
        exact = binomtest(images if wrong.all() else 0, images).proportion_ci()
        return float(exact.low), float(exact.high)
    low, high = np.percentile(_resampled(wrong, 1), _LIMITS)
    return float(low), float(high)


def _resampled(wrong: NDArray[Any], draw: int) -> NDArray[np.float64]:
    """Return the mean of (seeds, images) in each resample; equal draws resample seeds alike."""
    seeds, images = wrong.shape
    by_seed = _draws(images, 0) @ wrong.T.astype(np.float32)  # counts of one classifier: exact
    counts = (by_seed * _draws(seeds, draw)).sum(axis=1, dtype=np.float64)
    means: NDArray[np.float64] = counts / (seeds * images)
    return means


@lru_cache(maxsize=8)
def _draws(count: int, draw: int) -> NDArray[np.float32]:
    """How often each of `count` things is drawn in each resample: (resamples, count)."""
    rng = np.random.default_rng((draw, count))
    return rng.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES).astype(np.float32)
