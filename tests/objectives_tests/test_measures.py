"""Every number of the table by hand, and intervals that cover what they should."""

import models  # noqa: F401  makes Chainer importable

# isort: split
import numpy as np
import pytest
from scipy.stats import binom
from skimage.metrics import structural_similarity

from objectives.measures import (
    Answers,
    difference,
    error_table,
    perturbation_norms,
    similarities,
)
from study.errors import UsageError

RNG = np.random.default_rng(0)


def answers(adversarial, labels, clean=None, **more) -> Answers:
    """Answers of one classifier "f" at epsilon 8; by attack."""
    count = len(labels)
    clean = np.array(labels if clean is None else clean)
    return Answers(
        labels=np.array(labels),
        clean={"f": clean},
        adversarial={(name, 8, "f"): np.array(found) for name, found in adversarial.items()},
        l2={(name, 8): np.full(count, k + 1.0) for k, name in enumerate(adversarial)},
        ssim={(name, 8): np.full(count, 0.5) for name in adversarial},
        **more,
    )


def test_the_table_by_hand() -> None:
    #          right  right  right  wrong  wrong
    labels = [0, 1, 2, 3, 4]
    clean = [0, 1, 2, 0, 0]
    found = [0, 2, 0, 0, 4]
    given = answers({"a": found}, labels, clean, speed={"a": 12.5}, relation={("a", "f"): "family"})
    (row,) = error_table(given).to_dict("records")
    assert row == {
        "attack": "a", "epsilon": 8, "classifier": "f", "images": 5, "seeds": 1,
        "error": pytest.approx(3 / 5), "gain": pytest.approx(1 / 5),
        "asr": pytest.approx(2 / 3), "worst": pytest.approx(2 / 3), "fooling": pytest.approx(3 / 5),
        "low": row["low"], "high": row["high"], "l2": 1.0, "ssim": 0.5,
        "images_per_second": 12.5, "relation": "family",
    }  # fmt: skip
    assert list(row) == [
        "attack", "epsilon", "classifier", "error", "low", "high", "gain", "asr", "worst", "fooling",
        "l2", "ssim", "images_per_second", "relation", "seeds", "images",
    ]  # fmt: skip


def test_a_classifier_that_is_never_right_has_no_success_rate() -> None:
    (row,) = error_table(answers({"a": [1, 1]}, [0, 0], [1, 2])).to_dict("records")
    assert (row["error"], row["gain"], row["fooling"]) == (1, 0, 0.5)
    assert np.isnan(row["asr"])
    assert np.isnan(row["images_per_second"])
    assert row["relation"] == ""


@pytest.mark.parametrize(("wrong", "count"), [(1, 20), (30, 100), (500, 1000), (990, 1000)])
def test_the_bootstrap_of_one_rate_is_the_binomial_s(wrong, count) -> None:
    """Resampling zeros and ones draws from Binomial(n, k / n): its quantiles are known."""
    found = (np.arange(count) < wrong).astype(int)
    (row,) = error_table(answers({"a": found}, np.zeros(count, int))).to_dict("records")
    low, high = binom.ppf([0.025, 0.975], count, wrong / count) / count
    spread = np.sqrt(wrong * (count - wrong) / count**3)
    assert row["low"] == pytest.approx(low, abs=0.15 * spread + 1 / count)
    assert row["high"] == pytest.approx(high, abs=0.15 * spread + 1 / count)


@pytest.mark.parametrize("seeds", [1, 3])
def test_no_error_among_n_images_still_has_an_interval(seeds) -> None:
    names = [f"a-{k}" for k in range(1, seeds + 1)]
    none = answers(dict.fromkeys(names, np.zeros(50, int)), np.zeros(50, int))
    last = error_table(none).iloc[-1]
    assert (last.error, last.low) == (0, 0)
    assert last.high == pytest.approx(1 - 0.025 ** (1 / 50))
    every = answers(dict.fromkeys(names, np.ones(50, int)), np.zeros(50, int))
    last = error_table(every).iloc[-1]
    assert (last.error, last.high) == (1, 1)
    assert last.low == pytest.approx(0.025 ** (1 / 50))


class TestSeeds:
    LABELS = np.zeros(200, int)

    def test_seeds_of_one_attack_are_taken_together(self) -> None:
        found = {f"a-{k}": (np.arange(200) < 30 * k).astype(int) for k in (1, 2, 3)}
        given = answers(
            {**found, "b-1": found["a-1"], "c-8": found["a-2"], "c-16": found["a-3"]}, self.LABELS,
            speed={"a-1": 10.0, "a-2": 20.0, "a-3": 60.0},
            relation={("a-1", "f"): "cross", ("a-2", "f"): "seen", ("a-3", "f"): "family"},
        )  # fmt: skip
        table = error_table(given)
        assert table["attack"].tolist() == [*found, "b-1", "c-8", "c-16", "a-1..3"]
        last = table.iloc[-1]
        assert (last.seeds, last.images) == (3, 200)
        assert last.error == last.gain == last.asr == pytest.approx(0.3)
        assert last.l2 == pytest.approx(2)
        assert last.images_per_second == pytest.approx(30)
        assert last.relation == "seen"

    def test_seeds_that_differ_widen_the_interval(self) -> None:
        rng = np.random.default_rng(1)
        alike = {f"a-{k}": rng.random(200) < 0.5 for k in (1, 2, 3)}
        apart = {f"b-{k}": rng.random(200) < p for k, p in enumerate((0.1, 0.5, 0.9), 1)}
        given = answers({k: v.astype(int) for k, v in {**alike, **apart}.items()}, self.LABELS)
        table = error_table(given).set_index("attack")
        widths = (table.high - table.low)[["a-1..3", "b-1..3"]]
        assert widths["b-1..3"] > 0.4
        assert widths["a-1..3"] < 0.2

    def test_the_interval_is_the_crossed_bootstrap(self) -> None:
        """Against the definition, with loops: resample seeds and images, and average."""
        rng = np.random.default_rng(2)
        wrong = rng.random((3, 60)) < [[0.2], [0.5], [0.6]]
        given = answers(
            {f"a-{k}": w.astype(int) for k, w in enumerate(wrong, 1)}, np.zeros(60, int)
        )
        row = error_table(given).iloc[-1]
        means = [
            wrong[rng.integers(0, 3, 3)][:, rng.integers(0, 60, 60)].mean() for _ in range(4000)
        ]
        np.testing.assert_allclose(
            [row.low, row.high], np.percentile(means, [2.5, 97.5]), atol=0.02
        )


class TestDifference:
    def test_pairs_are_compared_image_by_image(self) -> None:
        """Two attacks that differ on ten images of 1000: the pairing takes the common part away."""
        a = (np.arange(1000) < 500).astype(int)
        b = (np.arange(1000) < 490).astype(int)
        given = answers({"a": a, "b": b}, np.zeros(1000, int))
        apart, low, high = difference(given, ["a"], ["b"], 8, "f")
        assert apart == pytest.approx(0.01)
        assert 0.004 < low < 0.006
        assert 0.015 < high < 0.018
        back = difference(given, ["b"], ["a"], 8, "f")
        np.testing.assert_allclose(back, [-apart, -high, -low])

    def test_an_attack_does_not_differ_from_itself(self) -> None:
        given = answers({"a": RNG.integers(0, 2, 100)}, np.zeros(100, int))
        assert difference(given, ["a"], ["a"], 8, "f") == (0, 0, 0)

    def test_seeds_of_both_sides_are_resampled_on_their_own(self) -> None:
        wrong = {f"{x}-{k}": np.full(100, k % 2) for x in "ab" for k in (1, 2)}
        given = answers(wrong, np.zeros(100, int))
        apart, low, high = difference(given, ["a-1", "a-2"], ["b-1", "b-2"], 8, "f")
        assert (apart, low, high) == (0, -1, 1)

    def test_what_was_not_scored_is_refused(self) -> None:
        given = answers({"a": [0]}, [0])
        with pytest.raises(UsageError) as raised:
            difference(given, ["a"], ["b"], 8, "f")
        assert str(raised.value) == "attack 'b' was not scored at epsilon 8 on 'f'"


def test_norms_are_those_of_unit_images() -> None:
    clean = RNG.integers(0, 200, (4, 3, 5, 6), dtype=np.uint8)
    moved = clean + np.arange(4, dtype=np.uint8)[:, None, None, None]
    np.testing.assert_allclose(
        perturbation_norms(moved, clean), np.arange(4) / 255 * np.sqrt(3 * 5 * 6)
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_similarity_is_the_mean_over_channels(channels) -> None:
    clean = RNG.integers(0, 256, (3, channels, 9, 12), dtype=np.uint8)
    noisy = np.clip(clean + RNG.integers(-20, 21, clean.shape), 0, 255).astype(np.uint8)
    expected = [
        np.mean([structural_similarity(a, b, data_range=255) for a, b in zip(x, y, strict=True)])
        for x, y in zip(noisy, clean, strict=True)
    ]
    np.testing.assert_allclose(similarities(noisy, clean), expected)
    np.testing.assert_allclose(similarities(clean, clean), 1)


def test_images_smaller_than_a_window_have_no_similarity() -> None:
    clean = np.zeros((2, 1, 6, 9), np.uint8)
    assert np.isnan(similarities(clean, clean)).all()
