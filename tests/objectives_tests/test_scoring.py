"""`jigsaw evaluate`: packages, baselines and PNG folders, with a study and without."""

import json
from io import StringIO
from pathlib import Path

import models  # noqa: F401  makes Chainer importable

# isort: split
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from models import weights
from models.classifiers import build as build_classifier
from models.generators import Epsilons, build, parse_arch
from models.hints import Hint
from models.package import load_package, save_package
from models.released import RELEASED
from objectives.data import load
from objectives.files import images, write_images
from objectives.scoring import evaluate
from objectives.targets import load_targets
from study.conditions import Conditions
from study.evaluations import read_evaluations
from study.launch import run
from study.objective import load_objective
from study.search.incremental import engine_of
from study.search.studies import create_study, load_study
from study.world import World

DIGITS = load("digits")
FEW = ["--images", "20", "--epsilons", "4,8"]
FREE = ["--data", "digits", "--classifiers", "plain-w2,jpeg:50+plain-w2", *FEW]
SETTINGS = {
    "data": "digits", "train": ["plain-w2"], "tune": ["plain-w3"], "report": ["plain-w2@1", "vgg-w2"],
    "epsilons": [4, 8], "images": 64, "classifier_images": 64,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _quick(monkeypatch) -> None:
    """Free evaluations train classifiers on 16000 images: too many for a test."""
    monkeypatch.setattr("objectives.scoring._CLASSIFIER_IMAGES", 64)


def rows(capsys, *arguments: str) -> pd.DataFrame:
    assert run([*arguments, "--format", "csv"], evaluate) == 0, capsys.readouterr().err
    return read(StringIO(capsys.readouterr().out))


def read(csv: StringIO | Path) -> pd.DataFrame:
    return pd.read_csv(csv, dtype={"relation": str}).fillna({"relation": ""})


def refusal(capsys, *arguments: str) -> str:
    assert run([*arguments], evaluate) == 2
    return capsys.readouterr().err.strip().splitlines()[-1].removeprefix("jigsaw: ")


@pytest.fixture
def url(tmp_path: Path) -> str:
    found = f"sqlite:///{tmp_path / 'study.db'}"
    objective = "objectives.attack:AttackObjective"
    create_study(
        found, "s", Conditions(objective=objective, settings=SETTINGS),
        load_objective(objective, SETTINGS),
    )  # fmt: skip
    return found


@pytest.fixture
def package(tmp_path: Path) -> Path:
    network = build(
        parse_arch({"name": "resnet", "width": 4}), Epsilons(mode="scaled"), channels=1, seed=0
    )
    record = {"conditions": {"train": ["plain-w2"], "tune": ["vgg-w2@4"]}}
    save_package(tmp_path / "mine", network, record)
    return tmp_path / "mine"


def folder_of(place: Path, change: int, count: int = 20) -> Path:
    """Adversarial PNG files, made from the exported ones by somebody else's tool."""
    write_images(DIGITS, place.with_name(f"{place.name}-clean"), ("report",), count)
    place.mkdir()
    for path in place.with_name(f"{place.name}-clean").glob("*.png"):
        with Image.open(path) as image:
            pixels = np.asarray(image).astype(int)
        pixels = np.where(pixels > 127, pixels - change, pixels + change).astype(np.uint8)
        Image.fromarray(pixels).save(place / path.name)
    return place


def hinted(place: Path) -> Path:
    """A package whose hint can be climbed."""
    own = build_classifier("plain-w2", channels=1, classes=10, size=8, seed=3)
    network = build(
        parse_arch({"name": "resnet", "width": 4}), Epsilons(mode="scaled"), channels=1, seed=0,
        hint=Hint("input", "plain-w2", own, steps=1),
    )  # fmt: skip
    save_package(place, network, {"conditions": {"train": ["plain-w2"], "tune": ["vgg-w2@4"]}})
    return place


class TestStudy:
    def test_everything_comes_from_the_study_and_is_stored_with_it(
        self, capsys, url, package, tmp_path
    ) -> None:
        csv = tmp_path / "errors.csv"
        given = [str(package), "fgsm", "--study", "s", "--storage", url, *FEW, "--csv", str(csv)]
        table = rows(capsys, *given)
        assert table["attack"].unique().tolist() == ["noop", "random", "mine", "fgsm"]
        assert len(table) == 4 * 2 * 2
        assert (table["images"] == 20).all()
        known = table.drop_duplicates(["attack", "classifier"]).set_index(["attack", "classifier"])
        assert known["relation"].to_dict() == {
            ("noop", "plain-w2@1"): "", ("noop", "vgg-w2"): "",
            ("random", "plain-w2@1"): "", ("random", "vgg-w2"): "",
            ("mine", "plain-w2@1"): "family", ("mine", "vgg-w2"): "family",
            ("fgsm", "plain-w2@1"): "family", ("fgsm", "vgg-w2"): "cross",
        }  # fmt: skip
        timed = table.groupby("attack")["images_per_second"].first()
        assert timed.notna().to_dict() == {
            "noop": False,
            "random": True,
            "mine": True,
            "fgsm": True,
        }
        stored = read_evaluations(engine_of(load_study(url, "s")), "s").drop(columns="made")
        digest = load_package(package)[1].digest
        networks = stored.groupby("attack")["weights"].unique().map(list).to_dict()
        assert networks == {"noop": [""], "random": [""], "fgsm": [""], "mine": [digest]}
        pd.testing.assert_frame_equal(stored.drop(columns="weights"), table)
        pd.testing.assert_frame_equal(read(csv), table)

    def test_data_and_classifiers_are_the_study_s(self, capsys, url) -> None:
        said = refusal(capsys, "noop", "--study", "s", "--storage", url, "--data", "digits")
        assert said == "--study says data and classifiers; leave --data, --classifiers, --train out"


class TestFree:
    def test_nothing_is_needed_but_data_and_classifiers(
        self, capsys, tmp_path, monkeypatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        table = rows(capsys, "noop", "random", *FREE)
        assert table["attack"].unique().tolist() == ["noop", "random"]
        assert table["classifier"].unique().tolist() == ["plain-w2", "jpeg:50+plain-w2"]
        assert not list(tmp_path.glob("*.db"))

    def test_a_package_is_scored_with_other_steps_beside_itself(self, capsys, tmp_path) -> None:
        place = hinted(tmp_path / "mine")
        given = [
            "--data",
            "digits",
            "--classifiers",
            "vgg-w2",
            "--images",
            "40",
            "--epsilons",
            "40",
        ]
        table = rows(capsys, str(place), f"{place}:steps=1", f"further={place}:steps=9", *given)
        errors = table.groupby("attack")["error"].first()
        assert table["attack"].unique().tolist() == [
            "noop",
            "random",
            "mine",
            "mine:steps=1",
            "further",
        ]
        assert errors["mine"] == errors["mine:steps=1"]
        changes = table.groupby("attack")["l2"].first()
        assert changes["mine"] == changes["mine:steps=1"] != changes["further"]

    def test_a_package_that_wrote_weights_down_has_seen_them_under_any_name(
        self, capsys, tmp_path
    ) -> None:
        (net,) = load_targets(["plain-w2"], DIGITS, 64, World()).values()
        network = build(
            parse_arch({"name": "resnet", "width": 4}), Epsilons(mode="scaled"), channels=1, seed=0
        )
        record = {
            "conditions": {"train": ["npz:gone.npz"]},
            "classifiers": {"npz:gone.npz": weights.digest(net)},
        }
        save_package(tmp_path / "mine", network, record)
        table = rows(capsys, str(tmp_path / "mine"), *FREE)
        relations = table[table["attack"] == "mine"]["relation"]
        assert set(relations) == {"seen"}

    def test_a_budget_counts_once(self, capsys) -> None:
        table = rows(capsys, "noop", *FREE, "--epsilons", "8,4,8")
        assert table["epsilon"].unique().tolist() == [8, 4]
        assert not table.duplicated(["attack", "classifier", "epsilon"]).any()

    def test_what_an_attack_saw_is_marked_and_is_no_held_out(self, capsys) -> None:
        table = rows(capsys, "fgsm", *FREE[:2], "--classifiers", "plain-w2,vgg-w2", *FEW,
                     "--train", "plain-w2")  # fmt: skip
        fgsm = table[table["attack"] == "fgsm"].set_index(["classifier", "epsilon"])
        assert fgsm["relation"].tolist() == ["seen", "cross"] * 2
        assert fgsm.loc[("plain-w2", 8), "worst"] == fgsm.loc[("vgg-w2", 8), "asr"]

    def test_seeds_are_summarised(self, capsys, package) -> None:
        table = rows(capsys, f"a-1={package}", f"a-2={package}", *FREE)
        last = table[table["attack"] == "a-1..2"]
        assert (last["seeds"] == 2).all()
        np.testing.assert_allclose(last["error"], table[table["attack"] == "a-1"]["error"])

    def test_the_table_for_people_leaves_out_what_says_nothing(self, capsys) -> None:
        assert run(["noop", *FREE], evaluate) == 0
        said = capsys.readouterr().out
        assert "report images of digits, after 8-bit rounding" in said
        assert "seeds" not in said
        assert run(["noop", *FREE, "--format", "json"], evaluate) == 0
        assert json.loads(capsys.readouterr().out)[0]["seeds"] == 1


class TestFolders:
    def test_it_is_scored_at_the_least_budget_it_keeps(self, capsys, tmp_path) -> None:
        place = folder_of(tmp_path / "theirs", 5)
        table = rows(capsys, str(place), f"again={place}", *FREE)
        theirs = table[table["attack"].isin(["theirs", "again"])]
        assert set(theirs["epsilon"]) == {8}
        assert len(theirs) == 4
        assert theirs["images_per_second"].isna().all()
        np.testing.assert_allclose(theirs["l2"], 5 / 255 * 8, rtol=1e-6)

    def test_it_comes_before_a_released_network_of_its_name(
        self, capsys, tmp_path, monkeypatch
    ) -> None:
        monkeypatch.chdir(folder_of(tmp_path / RELEASED[0], 5).parent)
        table = rows(capsys, RELEASED[0], *FREE)
        assert set(table[table["attack"] == RELEASED[0]]["epsilon"]) == {8}

    def test_what_no_budget_allows_is_counted_and_refused(self, capsys, tmp_path) -> None:
        place = folder_of(tmp_path / "theirs", 3)
        for name in ("00000.png", "00015.png"):
            with Image.open(place / name) as image:
                pixels = np.asarray(image).copy()
            pixels[0, 0] += 20
            Image.fromarray(pixels).save(place / name)
        assert refusal(capsys, str(place), *FREE) == (
            f"attack 'theirs': 2 of 20 images of {str(place)!r} change a pixel by more than 8 of 255, "
            "the largest epsilon; the largest change is 23"
        )

    def test_another_number_of_images_is_said(self, capsys, tmp_path) -> None:
        place = folder_of(tmp_path / "theirs", 3, count=7)
        assert "lacks 18 of 20 images" in refusal(capsys, str(place), *FREE)

    def test_the_export_names_the_same_images(self, capsys, tmp_path) -> None:
        assert run(["digits", str(tmp_path / "clean"), "--images", "20"], images) == 0
        capsys.readouterr()
        table = rows(capsys, f"copy={tmp_path / 'clean'}", *FREE)
        copy, noop = (table[table["attack"] == a].iloc[:2] for a in ("copy", "noop"))
        assert copy["error"].tolist() == noop["error"].tolist()
        assert (copy["epsilon"] == 4).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["noop"], "say what to score on: --study NAME, or --data DATA --classifiers A,B,.."),
        (["noop", "--data", "digits"], "say what to score on: --study NAME, or --data DATA"),
        (["nobody", *FREE], "attack 'nobody' is neither a folder nor a released network or baseline such as "),
        (["fgsm", *FREE], "attack 'fgsm' takes gradients from classifiers; name them with --train A,B"),
        (["noop", "noop", *FREE], "two attacks are called 'noop'; write another name, NAME=FOLDER, for one"),
        (["tests:steps=2", *FREE], "attack 'tests:steps=2' has steps, and 'tests' is no attack package"),
        (["cifar10", *FREE], "attack 'cifar10' is for images (3, H, W); those of digits are (1, H, W)"),
        (["noop", *FREE, "--epsilons", "4,x"], "--epsilons is '4,x'; allowed: integers 0..255"),
        (["noop", *FREE, "--epsilons", "²"], "--epsilons is '²'; allowed: integers 0..255"),
        (["noop", *FREE, "--classifiers", "vggg"], "classifier is 'vggg': allowed are plain"),
        (["noop", *FREE, "--classifiers", "jpeg:0+vgg"], "defence 'jpeg:0': allowed is a quality"),
        (["noop", *FREE, "--data", "cifar10:nowhere"], "nowhere does not exist"),
    ],
)  # fmt: skip
def test_a_wrong_command_is_one_sentence(capsys, arguments, said) -> None:
    assert refusal(capsys, *arguments).startswith(said)


def test_attacks_are_looked_at_before_classifiers_are_trained(capsys, monkeypatch) -> None:
    monkeypatch.setattr("objectives.scoring.load_targets", None)
    assert refusal(capsys, "fgsm", "nobody", *FREE, "--train", "vgg-w2").startswith(
        "attack 'nobody'"
    )
