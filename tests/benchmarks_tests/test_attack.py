"""The attack benchmark on digits: parts train once and go on, what is written is what was measured."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import models  # noqa: F401  makes Chainer importable

# isort: split
import numpy as np
import pandas as pd
import pytest

from benchmarks import (
    attack_baseline,
    attack_cells,
    attack_classifiers,
    attack_images,
    attack_left_out,
    bench_attack,
    bench_attack_recipe,
    bench_attack_speed,
    bench_attack_steps,
    release_attack,
    train_attack,
)
from benchmarks.attack_left_out import Climb
from models import released, weights
from models.classifiers import Classifier, build, freeze
from models.package import load_package
from objectives import retraining
from objectives.attack import AttackSettings
from objectives.baselines import baseline
from objectives.spec import AttackSpec
from objectives.targets import check_disjoint
from study.errors import UsageError

SETTINGS = {
    "data": "digits", "train": ("plain-w2", "plain-w3", "resnet8-w2", "plain-w2~fgsm-rs:8"), "tune": ("plain-w2@1",),
    "report": ("plain-w2@2", "vgg-w2"), "classifier_images": 64, "tune_images": 10,
}  # fmt: skip
RECIPE = {"arch.name": "resnet", "arch.width": 4, "arch.downs": 1, "arch.blocks": 0, "batch.size": 8,
          "targets.weighting": "weighted", "hint.kind": "input"}  # fmt: skip


def small(*, quick: bool, **changes: object) -> AttackSettings:
    return AttackSettings.model_validate(SETTINGS | changes)


@pytest.fixture(autouse=True)
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything the benchmark reads and writes, in a folder of this test."""
    monkeypatch.setenv("JIGSAW_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for module in (attack_baseline, attack_cells, attack_left_out, bench_attack, train_attack):
        monkeypatch.setattr(module, "conditions", small)
    for module in (bench_attack, bench_attack_speed, release_attack, train_attack):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    monkeypatch.setattr("benchmarks.claims.RESULTS", tmp_path / "results")
    changes = {
        attack_cells: {"QUICK": False, "FOLDER": tmp_path / "runs", "RELEASE": 8, "BATCH": 8, "SEEDS": 1,
                       "RECIPE": RECIPE, "TRIAL": 8, "SHOWN": 10, "FINALISTS": 2},
        train_attack: {"QUICK": False, "TRIALS": 1, "SECONDS": 1e-6},
        attack_baseline: {"CHOSEN": tmp_path / "results" / "attack_baseline.csv", "IMAGES": 5,
                          "CANDIDATES": ("fgsm", "mi-fgsm:steps=2")},
        bench_attack: {"IMAGES": 10, "COMPARED_IMAGES": 10, "CHECKED": 10, "EPSILONS": (4, 8)},
        bench_attack_speed: {"ROUNDS": 2, "LEAST": 0.0, "BATCH": 4},
        bench_attack_steps: {"TRAINED": 8, "SHOWN": 5, "CLIMBS": [Climb(1, 0.5), Climb(4, 2.0, 1.0)]},
        bench_attack_recipe: {"TRAINED": 8, "SHOWN": 5, "CHANGES": {"as it is": {}, "wider": {"arch.width": 8}}},
    }  # fmt: skip
    for module, values in changes.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
    return tmp_path


@pytest.fixture
def shelf(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for released networks."""
    monkeypatch.setattr(released, "__file__", str(workshop / "shelf" / "__init__.py"))
    monkeypatch.setattr(bench_attack, "RELEASED", ())
    return workshop / "shelf"


@pytest.fixture
def left_out(monkeypatch: pytest.MonkeyPatch) -> list[tuple[AttackSettings, AttackSpec, int]]:
    """Conditions, spec and seed of each short training without a classifier, in their order."""
    trained = []

    def retrain(objective, spec, seed, *given):
        trained.append((objective.conditions, spec, seed))
        return retraining.retrain(objective, spec, seed, *given)

    monkeypatch.setattr(attack_left_out, "retrain", retrain)
    return trained


def claims(workshop: Path, name: str = bench_attack.NAME) -> pd.DataFrame:
    path = workshop / "results" / f"{name}.csv"
    return pd.read_csv(path, comment="#").set_index("claim")


@pytest.mark.parametrize("name", released.RELEASED)
def test_what_is_released_is_still_among_the_candidates(monkeypatch, name: str) -> None:
    _, card = load_package(Path(name))
    told = re.fullmatch(
        r"(?:DATASET=(?P<dataset>\w+) )?(?:RELEASE=\d+ )?(?:BATCH=(?P<batch>\d+) )?make train-attack "
        r"PARTS=release/(?P<candidate>\w+)-\d+",
        str(card.record["command"]),
    )
    monkeypatch.undo()  # the real recipe and conditions
    dataset = told["dataset"] or "cifar10"
    assert name in (dataset, f"{dataset}-fast")
    monkeypatch.setattr(attack_classifiers, "DATASET", dataset)
    candidate = {
        "batch.size": int(told["batch"] or attack_cells.BATCH),
        **attack_cells.CANDIDATES[told["candidate"]],
    }
    spec = attack_cells.spec_of(attack_classifiers.conditions(quick=False), **candidate)
    theirs = AttackSpec.model_validate(card.record["spec"])
    ours, theirs = (  # files are named from where the command ran
        json.loads(re.sub(r'npz:[^"]*/', "npz:", s.model_dump_json())) for s in (spec, theirs)
    )
    assert ours == theirs


@pytest.mark.parametrize("dataset", ["cifar10", "fashion_mnist"])
def test_the_sets_are_disjoint_and_report_is_as_the_protocol_asks(
    monkeypatch, dataset: str
) -> None:
    monkeypatch.setattr(attack_classifiers, "DATASET", dataset)
    given = attack_classifiers.conditions(quick=False)
    check_disjoint({name: getattr(given, name) for name in ("train", "tune", "report")})
    assert {text.partition("+")[0] for text in given.report} >= {"jpeg:50", "bits:3", "median:3"}
    assert any("~" in text for text in given.report)
    assert not any("~" in text for text in given.tune)
    assert not any("+" in text for text in (*given.train, *given.tune))
    assert attack_classifiers.conditions(quick=False, images=3).images == 3
    assert attack_classifiers.conditions(quick=True).classifier_images < given.classifier_images


@pytest.mark.parametrize(
    ("dataset", "code", "said"),
    [
        ("fashion_mnist", 0, "attack_fashion_mnist fashion_mnist:"),
        ("", 0, "attack cifar10:"),
        ("mnist", 1, "DATASET is 'mnist'; allowed: cifar10, fashion_mnist"),
    ],
)
def test_the_data_set_is_chosen_from_outside(dataset: str, code: int, said: str) -> None:
    script = """
from benchmarks import bench_attack
print(bench_attack.NAME, bench_attack.conditions(quick=True).data)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "DATASET": dataset, "QUICK": ""}, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == code
    assert done.stdout.startswith(said) if code == 0 else done.stderr == f"{said}\n"


class TestTraining:
    def test_a_part_that_is_there_is_not_trained_again(self, workshop, capsys) -> None:
        train_attack.main(["release"])
        package = workshop / "runs" / "release" / "weighed-1" / "package.json"
        before = package.stat().st_mtime_ns
        train_attack.main(["release"])
        assert package.stat().st_mtime_ns == before
        rows = pd.read_csv(workshop / "results" / "attack_training.csv").to_dict("records")
        assert [row["network"] for row in rows] == sorted(f"{n}-1" for n in attack_cells.CANDIDATES)
        row = rows[0]
        assert (row["part"], row["images"]) == ("release", 8)
        assert row["command"] == f"make train-attack PARTS=release/{row['network']}"

    def test_compared_networks_differ_in_what_is_compared(self, workshop) -> None:
        train_attack.main(["factorial"])
        found = {
            name: load_package(path) for name, path in attack_cells.packages("factorial").items()
        }
        assert len(found) == 8 * 3
        for name, (network, card) in found.items():
            targets, epsilons, hints, seed = (int(part[-1]) for part in name.split("-"))
            record = card.record
            assert len(record["conditions"]["train"]) == (4 if targets else 1)
            assert len(card.epsilons.trained) == (13 if epsilons else 1)
            assert (network.hint is not None) == bool(hints)
            assert record["seed"] == seed
        images = {card.record["conditions"]["images"] for _, card in found.values()}
        assert images == {8}

    def test_the_best_seed_of_the_chosen_candidate_is_released(
        self, workshop, shelf, monkeypatch
    ) -> None:
        monkeypatch.setattr(attack_cells, "SEEDS", 2)
        train_attack.main(["release"])
        cards = [path / "package.json" for path in attack_cells.packages("release").values()]
        assert len(cards) == 2 * len(attack_cells.CANDIDATES)
        others: list[str] = []
        for seed in (1, 2):
            for card in cards:
                candidate, _, number = card.parent.name.rpartition("-")
                content = json.loads(card.read_text())
                own = 0.25 if candidate in attack_cells.CHOSEN.values() else 0.75
                error = own + 0.25 * (int(number) == seed)
                content["record"]["tune errors"] = {"4": 0.25, "8": error}
                card.write_text(json.dumps(content))
            release_attack.main()
            for name, candidate in attack_cells.CHOSEN.items():
                best = workshop / "runs" / "release" / f"{candidate}-{seed}"
                released_weights = load_package(shelf / name)[1].weights
                assert released_weights == load_package(best)[1].weights
                assert released_weights not in others
                others.append(released_weights)

    def test_another_network_is_released_where_it_is_named(
        self, workshop, shelf, monkeypatch
    ) -> None:
        train_attack.main(["release"])
        found = attack_cells.packages("release")
        for name, path in found.items():
            monkeypatch.setattr(release_attack, "NETWORK", name)
            release_attack.main()
            spec = load_package(shelf / "cifar10")[1].record["spec"]
            assert spec == load_package(path)[1].record["spec"]
            assert [folder.name for folder in shelf.iterdir()] == ["cifar10"]
        monkeypatch.setattr(release_attack, "NETWORK", "best")
        with pytest.raises(UsageError) as raised:
            release_attack.main()
        assert str(raised.value) == f"NETWORK is 'best'; allowed: {', '.join(found)}"

    def test_seeds_that_are_missing_see_as_many_images_as_those_that_are_there(
        self, workshop
    ) -> None:
        train_attack.main(["specialists"])
        folder = workshop / "runs" / "specialists"
        assert {path.parent.name.partition("-")[0] for path in folder.glob("*/package.json")} == {
            "all", "eps04", "eps08", "eps16",
        }  # fmt: skip
        card = folder / "eps04-1" / "package.json"
        content = json.loads(card.read_text())
        content["record"]["conditions"]["images"] = 16
        card.write_text(json.dumps(content))
        for path in (folder / "eps04-2").iterdir():
            path.unlink()
        (folder / "eps04-2").rmdir()
        train_attack.main(["specialists"])
        assert load_package(folder / "eps04-2")[1].record["conditions"]["images"] == 16

    # Python 3.12 warns of a fork beside threads, which the test runner has; see `_use_one_thread`.
    @pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
    def test_several_are_trained_at_a_time_in_processes_of_their_own(
        self, workshop, monkeypatch
    ) -> None:
        monkeypatch.setattr(train_attack, "JOBS", 3)
        train_attack.main(["specialists"])
        found = attack_cells.packages("specialists")
        assert set(found) == {
            f"{n}-{s}" for n in ("all", "eps04", "eps08", "eps16") for s in (1, 2, 3)
        }
        weights_of = {n: load_package(p)[1].digest for n, p in found.items()}
        monkeypatch.setattr(train_attack, "JOBS", 1)
        monkeypatch.setattr(attack_cells, "FOLDER", workshop / "again")
        train_attack.main(["specialists/eps08-2"])
        again = attack_cells.packages("specialists")
        assert set(again) == {"eps08-2"}
        assert load_package(again["eps08-2"])[1].digest == weights_of["eps08-2"]

    # Python 3.12 warns of a fork beside threads, which the test runner has; see `_use_one_thread`.
    @pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
    def test_where_one_of_several_fails_it_says_why(self, workshop, monkeypatch) -> None:
        def broken(*given: object) -> None:
            raise UsageError("no network today")

        monkeypatch.setattr(train_attack, "JOBS", 2)
        monkeypatch.setattr(train_attack, "_train", broken)
        with pytest.raises(UsageError, match=r"^no network today$"):
            train_attack.main(["release"])

    @pytest.mark.parametrize("name", ["release/best-1", "release/fine-2", "study/attack-1"])
    def test_a_network_that_is_unknown_is_one_sentence(self, name) -> None:
        with pytest.raises(UsageError, match=r"^part '\w+' has no network '[\w-]+'$"):
            train_attack.main([name])

    def test_what_is_compared_is_allowed_a_processors_time_wherever_it_is_trained(
        self, workshop, monkeypatch
    ) -> None:
        seen = []
        monkeypatch.setenv("JIGSAW_DEVICE", "cuda")
        monkeypatch.setattr(
            train_attack,
            "_processor_seconds",
            lambda _: seen.append(os.environ["JIGSAW_DEVICE"]) or 1.0,
        )
        train_attack._measure("specialists")
        assert set(seen) == {"cpu"}
        assert os.environ["JIGSAW_DEVICE"] == "cuda"

    def test_what_a_stopped_beginning_cost_counts(self, workshop, monkeypatch) -> None:
        ticks = iter([(30.0, 3.0), (110.0, 11.0)])
        monkeypatch.setattr(train_attack, "_clocks", lambda: next(ticks))
        place = workshop / "runs" / "release" / "a-1"
        assert train_attack._spent(place, (10.0, 1.0)) == [20.0, 2.0]
        assert train_attack._spent(place, (100.0, 10.0)) == [30.0, 3.0]

    def test_a_part_that_is_unknown_is_one_sentence(self) -> None:
        with pytest.raises(UsageError) as raised:
            train_attack.main(["factorials"])
        assert str(raised.value).startswith(
            "part 'factorials' is unknown; allowed: study, finalists,"
        )

    @pytest.mark.slow
    def test_studies_go_on_and_their_winners_are_trained_again(self, workshop) -> None:
        train_attack.main(["study", "study"])
        with pytest.raises(
            UsageError, match=r"attack-0-1 is not trained; run: make train-attack PARTS=finalists$"
        ):
            train_attack.main(["seeds"])
        train_attack.main(["finalists", "seeds"])
        assert set(attack_cells.packages("finalists")) == {
            f"{study}-0-{seed}" for study in ("attack", "attack-random") for seed in (1, 2)
        }
        assert set(attack_cells.packages("seeds")) == {
            f"{name}-{seed}"
            for name in ("winner", "random-winner", "default")
            for seed in range(1, 6)
        }
        assert train_attack.absent() == ["release", "baseline", "factorial", "specialists"]

    def test_time_is_taken_by_turns_and_what_costs_less_sees_more(
        self, workshop, monkeypatch
    ) -> None:
        order, costs = [], {}

        def seconds(updates) -> float:
            order.append(costs.setdefault(id(updates), len(costs)))
            return 9.0 if len(order) <= 4 else 0.5 * (1 + order[-1])

        monkeypatch.setattr(train_attack, "_processor_seconds", seconds)
        monkeypatch.setattr(train_attack, "SECONDS", 10)
        train_attack._measure("specialists")
        assert order == [0, 1, 2, 3] * train_attack.ROUNDS
        cells = list(attack_cells.CELLS["specialists"]())
        assert [train_attack._images(cell) for cell in cells] == [20 * 8, 10 * 8, 6 * 8, 5 * 8]


def test_what_is_rounded_normalises_images_as_before() -> None:
    own = build("resnet8-w2", channels=3, classes=10, size=32, seed=0)
    own.std[:] = 0.2249
    before = weights.arrays(own)["conv1/W"].copy()
    train_attack.round_weights(own)
    assert weights.arrays(own)["std"].ravel().tolist() == [np.float32(0.2249)] * 3
    after = weights.arrays(own)["conv1/W"]
    np.testing.assert_array_equal(after, before.astype(np.float16))
    assert (after != before).any()


class TestBaseline:
    def test_the_best_candidate_is_chosen_and_kept(self, workshop, monkeypatch) -> None:
        monkeypatch.setattr(attack_baseline, "NOISE", 0.0)
        assert attack_baseline.tuned() is None
        attack_baseline.tune(attack_baseline.CHOSEN)
        table = pd.read_csv(attack_baseline.CHOSEN)
        assert table["tune_error"].is_monotonic_decreasing
        assert attack_baseline.tuned() == table["attack"][0]

    @pytest.mark.parametrize(
        ("rows", "chosen"),
        [
            ([("di-mi-fgsm:steps=50,step=0.1", 0.785), ("mi-fgsm:step=1", 0.78), ("mi-fgsm", 0.775)], "mi-fgsm:step=1"),
            ([("mi-fgsm:steps=50", 0.8), ("mi-fgsm:step=1", 0.78)], "mi-fgsm:steps=50"),
            ([("mi-fgsm", 0.8), ("mi-fgsm:steps=20", 0.795)], "mi-fgsm"),
        ],
    )  # fmt: skip
    def test_of_candidates_that_noise_may_order_the_cheapest_is_chosen(
        self, workshop, rows, chosen
    ) -> None:
        table = pd.DataFrame(rows, columns=["attack", "tune_error"])
        table.to_csv(attack_baseline.CHOSEN, index=False)
        assert attack_baseline.tuned() == chosen


class TestBench:
    def test_without_a_network_it_says_so(self, workshop, shelf) -> None:
        bench_attack.main()
        text = (workshop / "results" / f"{bench_attack.NAME}.md").read_text()
        assert "released networks: none" in text
        assert "tuned baseline: none" in text
        assert (
            "not run, so not here: study, finalists, release, baseline, factorial, specialists, seeds"
            in text
        )
        assert not any("cifar10" in claim for claim in claims(workshop).index)

    def test_from_training_to_the_card(self, workshop, shelf, monkeypatch) -> None:
        """The whole track: train, release, measure, release what was measured."""
        with pytest.raises(
            UsageError,
            match="no diverse is trained; run: make train-attack PARTS=release/diverse-1",
        ):
            release_attack.main()
        train_attack.main(["release", "specialists"])
        release_attack.main()
        _, card = load_package(shelf / "cifar10")
        assert card.errors == []
        monkeypatch.setattr(bench_attack, "RELEASED", ("cifar10", "cifar10-fast"))
        # No classifier of digits comes with its weights.
        monkeypatch.setattr(bench_attack, "strong", lambda texts: list(texts[:1]))
        for module in (bench_attack, bench_attack_speed):
            monkeypatch.setattr(module, "load_package", lambda path, **steps: load_package(
                path if path.is_absolute() else shelf / path, **steps))  # fmt: skip
        bench_attack.main()
        bench_attack_speed.main()
        text = (workshop / "results" / f"{bench_attack_speed.NAME}.md").read_text()
        assert "- command: make bench-attack-speed\n" in text
        release_attack.main()
        _, card = load_package(shelf / "cifar10")
        assert {row["attack"] for row in card.errors} == {
            "cifar10", bench_attack.OURS_FURTHER, "mi-fgsm", "noop", "random",
        }  # fmt: skip
        fast, told = load_package(shelf / "cifar10-fast")
        assert fast.hint is None
        assert told.record["after training"] == "weights rounded to half precision"
        assert {row["attack"] for row in told.errors} == {
            "cifar10-fast", "mi-fgsm", "noop", "random",
        }  # fmt: skip
        climb = Climb(card.hint.steps, card.hint.gain, card.hint.beside_gain)
        assert climb == release_attack.CLIMB
        first, second, beside, robust = card.record["conditions"]["train"]
        network, _ = load_package(shelf / "cifar10")
        assert [asked.text for asked in network.hint.turns] == [first, second, robust]
        assert [asked.text for asked in network.hint.beside] == [beside]
        for own in (network, network.hint.turns[-1].classifier):
            for name, array in weights.arrays(own).items():
                if name not in ("mean", "std"):
                    np.testing.assert_array_equal(array, array.astype(np.float16))
        assert "at epsilon 4" in card.record["measured"]
        self._check(claims(workshop), card.errors)
        self._check_speed(claims(workshop, bench_attack_speed.NAME), card.errors)
        # What compared networks said is kept as long as they are the same.
        before = claims(workshop)
        monkeypatch.setattr(bench_attack, "_told", None)
        bench_attack.main()
        after = claims(workshop)
        told = [claim for claim in before.index if "specialists" in claim]
        assert before.loc[told, "value"].equals(after.loc[told, "value"])
        # Specialists are shown what they were trained for alone.
        cells = [claim for claim in told if claim.startswith("specialists, ")]
        shown = {(cell.split(", ")[1], cell.split(", ")[2].split(":")[0]) for cell in cells}
        own = {("eps04", "eps 4"), ("eps08", "eps 8")}
        assert shown == {("all", "eps 4"), ("all", "eps 8"), *own}
        monkeypatch.setattr(bench_attack, "IMAGES", 9)
        with pytest.raises(TypeError):
            bench_attack.main()

    def _check(self, table: pd.DataFrame, rows: list[dict]) -> None:
        end = "eps 8: above mi-fgsm, lower end of the 95 % interval"
        row = table.loc[f"mean error over the report set, {end}"]
        errors = pd.DataFrame(rows).query("epsilon == 8").groupby("attack")["error"].mean()
        ours, theirs = 100 * errors["cifar10"], 100 * errors["mi-fgsm"]
        assert row["note"].startswith(f"{ours:.1f} % against {theirs:.1f} %")
        assert row["value"] <= ours - theirs
        assert row["goal"] == 0
        for family in ("same", "cross"):
            assert f"mean error over {family}-family rows, {end}" in table.index
        fewer = "above mi-fgsm on the ResNets, lower end of the 95 % interval"
        assert f"mean error over the report set, eps 8: {fewer}" in table.index
        worst = "worst report classifier, eps 8: success above mi-fgsm"
        assert table.loc[worst, "goal"] == 0
        # The goals are those of the network as it is released.
        further = bench_attack.OURS_FURTHER
        assert pd.isna(table.loc[f"{further}, {worst}", "goal"])
        assert pd.isna(table.loc[f"{further}, mean error over the report set, {end}", "goal"])
        for whose in ("", "cifar10-fast, "):
            assert table.loc[f"{whose}8-bit images beyond their budget, of 13 x 10", "value"] == 0
        assert "specialists, eps04, eps 4: mean error over the report set" in table.index

    def _check_speed(self, table: pd.DataFrame, rows: list[dict]) -> None:
        assert table.loc["images/s of mi-fgsm over those of mi-fgsm", "value"] == 1
        own = table.loc["images/s of cifar10 over those of mi-fgsm"]
        assert own["goal"] == 8  # it has hints
        mean = pd.DataFrame(rows).query("epsilon == 8 and attack == 'cifar10'")["error"].mean()
        assert f"mean error {100 * mean:.1f} % at eps 8; with hints" in own["note"]
        for steps in (0, bench_attack.FURTHER):
            row = table.loc[f"images/s of cifar10:steps={steps} over those of mi-fgsm"]
            assert pd.isna(row["goal"])
            assert row["note"].endswith("; with hints")
        fast = table.loc["images/s of cifar10-fast over those of mi-fgsm"]
        assert fast["goal"] == 25
        assert fast["note"].endswith("; without hints")
        for name in ("cifar10", "cifar10-fast"):
            assert table.loc[f"images/s of {name} over those of mi-fgsm of 8 targets", "goal"] == 50
            assert (
                table.loc[f"images from which training {name} pays for itself", "unit"] == "images"
            )

    def test_steps_are_judged_by_a_classifier_left_out(self, workshop, left_out) -> None:
        bench_attack_steps.main()
        ((given, spec, _),) = left_out
        whole = small(quick=True)
        assert given.train == tuple(text for text in whole.train if text != whole.train[1])
        assert given.tune == (whole.train[1], f"resize:0.8+{whole.train[1]}", *whole.tune)
        assert set(spec.targets.weight) == set(given.train)
        assert [spec.hint.classifier, *spec.hint.beside] == attack_classifiers.standard(given.train)
        found = claims(workshop, bench_attack_steps.NAME)
        names = [name.partition(":")[0] for name in found.index]
        assert names == [
            "mi-fgsm", "no steps", "1 step of gain 0.5", "4 steps of gain 2, 1 of those beside",
        ]  # fmt: skip

    def test_changes_of_the_recipe_are_judged_alike(self, workshop, left_out, monkeypatch) -> None:
        shown = {}

        def climbing(judging, network, climb):
            shown[network.arch.width] = climb
            return lambda images, epsilon: images

        monkeypatch.setattr(attack_left_out.LeftOut, "climbing", climbing)
        bench_attack_recipe.main()
        seeds = bench_attack_recipe.SEEDS
        assert [(spec.arch.width, seed) for _, spec, seed in left_out] == [
            (width, seed) for width in (4, 8) for seed in seeds
        ]
        assert shown == dict.fromkeys((4, 8), release_attack.CLIMB)
        found = claims(workshop, bench_attack_recipe.NAME)
        names = [name.partition(":")[0] for name in found.index]
        assert names == ["as it is", "wider", "mi-fgsm"]
        # Nothing was attacked, so the least distance is that of the budget where MI-FGSM is the best.
        means = [
            [float(mean) for mean in re.findall(r"([\d.]+) % at", note)] for note in found["note"]
        ]
        expected = min(own - theirs for own, theirs in zip(means[0], means[-1], strict=True))
        assert found["value"].iloc[0] == pytest.approx(expected, abs=0.11)

    def test_images_beyond_their_budget_are_counted(self, workshop) -> None:
        bench = bench_attack.load_bench()
        (claim,) = bench_attack._violations(bench, "cifar10", lambda images, epsilon: 255 - images)
        assert claim.value > 100
        assert claim.met is False


def test_the_worst_classifier_and_falling_errors_are_told() -> None:
    rows = [
        {"attack": attack, "epsilon": epsilon, "error": error, "worst": worst}
        for attack, worst in (("cifar10", 0.25), ("mi-fgsm", 0.5))
        for epsilon, error in ((4, 0.5), (8, 0.25), (12, 0.5), (16, 0.75))
    ]
    table = pd.DataFrame(rows)
    worst = bench_attack._worst(table, "cifar10")
    assert [(claim.value, claim.met) for claim in worst] == [(-25.0, False)] * len(worst)
    assert worst[0].note.startswith("25.0 % against 50.0 %")
    growth = bench_attack._growth(table, "cifar10")
    assert (growth.value, growth.met) == (1, False)


@pytest.mark.parametrize(
    ("ours", "begins"),
    [
        (0.5, "below mi-fgsm of 10 steps at epsilon 4, in"),
        (0.875, "not below mi-fgsm of 10 steps at epsilon 4, 8, in"),
    ],
)
def test_the_verdict_says_where_the_network_loses(ours: float, begins: str) -> None:
    rows = [
        {"attack": attack, "epsilon": epsilon, "classifier": c, "error": error}
        for epsilon, theirs in ((4, 0.75), (8, 0.25))
        for attack, error in (("cifar10", ours), ("mi-fgsm", theirs)) for c in "ab"
    ]  # fmt: skip
    said = release_attack.verdict("cifar10", rows)
    assert said.startswith(begins)
    assert said.endswith(
        f"{100 * ours:.1f} % at epsilon 4 (75.0 %), {100 * ours:.1f} % at epsilon 8 (25.0 %)"
    )


def test_what_was_measured_of_another_network_is_not_released(tmp_path: Path) -> None:
    path = tmp_path / "errors.csv"
    path.write_text("attack,epsilon,error,package\nnoop,8,0.5,\nfgsm,8,0.5,\ncifar10,8,0.5,abc\n")
    assert release_attack._measured(path, "cifar10", "abd") == []
    kept = release_attack._measured(path, "cifar10", "abc")
    assert [row["attack"] for row in kept] == ["noop", "cifar10"]


@pytest.mark.parametrize(("least", "times"), [(0.0, 1), (0.03, 3)])
def test_answers_are_taken_in_turn(monkeypatch, least: float, times: int) -> None:
    monkeypatch.setattr(bench_attack_speed, "LEAST", least)
    calls = []

    def attack(images: np.ndarray, epsilon: int) -> np.ndarray:
        calls.append(epsilon)
        time.sleep(0.012)
        return images

    spent = bench_attack_speed.in_turn({"a": attack, "b": attack}, np.zeros((1, 1, 8, 8), np.uint8))
    assert (
        2 * (bench_attack_speed.ROUNDS + 1)
        <= len(calls)
        <= 2 * times * (bench_attack_speed.ROUNDS + 1)
    )
    assert (len(calls) > 2 * (bench_attack_speed.ROUNDS + 1)) == (times > 1)
    assert {len(values) for values in spent.values()} == {bench_attack_speed.ROUNDS}
    assert min(min(values) for values in spent.values()) >= 0.012  # of one, however many there were


def test_speed_is_that_of_one_core() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    before = os.sched_getaffinity(0), torch.get_num_threads()
    with bench_attack_speed._one_core():
        assert (len(os.sched_getaffinity(0)), torch.get_num_threads()) == (1, 1)
    assert (os.sched_getaffinity(0), torch.get_num_threads()) == before


def test_training_pays_for_itself_once_it_saved_what_it_cost() -> None:
    seconds = {"mi-fgsm": [4.0, 8.0, 4.0], "cifar10": [2.0, 2.0, 2.0]}
    card = SimpleNamespace(record={"processor seconds": 100, "machine": {"processor": "a"}})
    claim = bench_attack_speed._break_even(seconds, "cifar10", card)
    assert claim.value == 100 / (2.0 / bench_attack_speed.BATCH)
    assert claim.note == "100 processor seconds of training, on a"


class TestKeptImages:
    IMAGES = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)

    def nets(self, seed: int = 0) -> list[Classifier]:
        return [freeze(build("plain-w2", channels=1, classes=4, size=8, seed=seed))]

    def test_they_are_those_of_the_baseline_and_are_computed_once(self, tmp_path) -> None:
        nets = self.nets()
        computed = baseline("mi-fgsm:steps=2", nets)(self.IMAGES, 8)
        found = attack_images.kept("mi-fgsm:steps=2", nets, tmp_path / "images")(self.IMAGES, 8)
        np.testing.assert_array_equal(found, computed)
        (path,) = (tmp_path / "images").iterdir()
        np.save(path, computed[::-1])
        again = attack_images.kept("mi-fgsm:steps=2", nets, tmp_path / "images")(self.IMAGES, 8)
        np.testing.assert_array_equal(again, computed[::-1])

    def test_whatever_decides_them_is_told_apart(self, tmp_path) -> None:
        for text, seed, images, epsilon in (
            ("fgsm", 0, self.IMAGES, 8), ("mi-fgsm", 0, self.IMAGES, 8), ("fgsm", 1, self.IMAGES, 8),
            ("fgsm", 0, self.IMAGES + 1, 8), ("fgsm", 0, self.IMAGES, 9),
        ):  # fmt: skip
            before = len(list((tmp_path / "images").glob("*")))
            attack_images.kept(text, self.nets(seed), tmp_path / "images")(images, epsilon)
            assert len(list((tmp_path / "images").iterdir())) == before + 1
