"""Attack packages: written whole, loaded with nothing beside them, refused when damaged."""

import json
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import numpy as np
import pytest

from models import classifiers, weights
from models.classifiers import pretrained
from models.generators import AttackNetwork, Epsilons, build, parse_arch
from models.hints import Hint
from models.package import Card, load_package, save_package
from study.errors import DataError, UsageError

RECORD = {"study": "demo", "trial": 3, "spec": {"batch": {"size": 8}}}
ROWS = [
    {"attack": "demo", "epsilon": 4, "classifier": "plain", "error": 0.25},
    {"attack": "noop", "epsilon": 4, "classifier": "plain", "error": 0.125},
]


def network(seed: int = 0, **fields: object) -> AttackNetwork:
    arch = parse_arch({"name": "resnet", "width": 4, "downs": 1, "blocks": 0, **fields})
    return build(arch, Epsilons(mode="scaled", values=(4, 8)), channels=1, seed=seed)


def hint(text: str = "vgg-w4@seed", kind: str = "multiscale") -> Hint:
    name = text.partition("@")[0]
    own = classifiers.build(name, channels=1, classes=7, size=12, seed=5)
    return Hint(kind, name, own)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_package(tmp_path / "deep" / "package", network(), RECORD, ROWS)
    return tmp_path / "deep" / "package"


def edit(folder: Path, **changes: object) -> None:
    path = folder / "package.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_package_comes_back_as_it_was(folder: Path) -> None:
    found, card = load_package(folder)
    assert weights.digest(found) == weights.digest(network()) == card.weights
    assert (found.arch, found.epsilons, found.channels) == (
        network().arch,
        Epsilons(mode="scaled", values=(4, 8)),
        1,
    )
    assert card.record == RECORD
    assert card.errors == ROWS
    assert sorted(p.name for p in folder.iterdir()) == ["CARD.md", "package.json", "weights.npz"]
    assert [p.name for p in folder.parent.iterdir()] == ["package"]


def test_the_card_for_people_says_the_same(folder: Path) -> None:
    text = (folder / "CARD.md").read_text()
    _, card = load_package(folder)
    assert f"sha256 `{card.weights}`" in text
    assert "budgets: 4, 8 of 255, mode `scaled`" in text
    assert '- spec: `{"batch": {"size": 8}}`' in text
    assert "| attack | epsilon | classifier | error |" in text
    assert "| demo | 4 | plain | 0.250 |" in text


def test_a_package_is_replaced_whole(folder: Path) -> None:
    save_package(folder, network(seed=1), {})
    found, card = load_package(folder)
    assert weights.digest(found) == weights.digest(network(seed=1))
    assert (card.record, card.errors) == ({}, [])
    assert [p.name for p in folder.parent.iterdir()] == ["package"]


def test_what_lies_beside_a_package_stays(folder: Path) -> None:
    beside = folder.with_name("package.new")
    beside.mkdir()
    (beside / "notes.txt").write_text("precious")
    save_package(folder, network(seed=1), {})
    assert (beside / "notes.txt").read_text() == "precious"


def test_a_folder_is_known_by_where_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(folder)
    save_package(Path(), network(seed=1), {})
    (tmp_path / "link").symlink_to(folder)
    save_package(tmp_path / "link", network(seed=2), {})
    assert (tmp_path / "link").is_symlink()
    assert weights.digest(load_package(folder)[0]) == weights.digest(network(seed=2))


# What stands where a package shall be, as files and their content.
STANDING: dict[str, dict[str, str]] = {
    "other files": {"chapter1.txt": "precious"},
    "of npm": {"package.json": '{"name": "thesis", "version": "1.0.0"}'},
    "no card": {"package.json": "", "weights.npz": "precious"},
    "no files": {},
}


@pytest.mark.parametrize("kind", STANDING)
def test_what_is_no_package_is_never_replaced(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "thesis"
    place.mkdir()
    for name, content in STANDING[kind].items():
        (place / name).write_text(content)
    with pytest.raises(UsageError, match=r"thesis' exists and is no attack package; name another"):
        save_package(place, network(), {})
    assert {path.name: path.read_text() for path in place.iterdir()} == STANDING[kind]


def test_a_package_with_something_more_in_it_is_never_replaced(folder: Path) -> None:
    (folder / "notes").mkdir()
    with pytest.raises(UsageError, match=r"package' exists and is no attack package"):
        save_package(folder, network(seed=1), {})
    assert weights.digest(load_package(folder)[0]) == weights.digest(network())


def test_a_file_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("precious")
    with pytest.raises(UsageError, match=r"thesis' exists and is no attack package"):
        save_package(tmp_path / "thesis", network(), {})
    assert (tmp_path / "thesis").read_text() == "precious"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 2}, "format is 2: input should be less than or equal to 1"),
        ({"arch": {"name": "dense"}}, "arch.name is 'dense'; allowed: resnet"),
        ({"arch": {"name": "resnet", "width": -1}}, "arch.width is -1: input should be greater"),
        ({"epsilons": {"mode": "all"}}, "epsilons.mode is 'all': input should be 'heads'"),
        ({"epsilons": {"values": [8, 4]}}, "epsilons.values is [8, 4]: budgets must be increasing"),
        ({"channels": 0}, "channels is 0: input should be greater"),
        ({"weights": None}, "weights is None: input should be a valid string"),
    ],
)
def test_a_damaged_card_is_refused_in_one_sentence(folder: Path, changes, said) -> None:
    edit(folder, **changes)
    with pytest.raises(DataError) as raised:
        load_package(folder)
    start = f"package file {str(folder / 'package.json')!r} is damaged: "
    assert str(raised.value).startswith(start + said)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"format": 1' + b" " * 4000])
def test_a_card_that_is_no_card_is_refused_shortly(folder: Path, content: bytes) -> None:
    (folder / "package.json").write_bytes(content)
    with pytest.raises(DataError, match=r"package\.json' is damaged: ") as raised:
        load_package(folder)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (network(seed=9), "weights.npz is not what package.json describes"),
        (network(width=5), r"expected float32\["),
        (network(norm="batch"), r"lacks 'trunk/(up|down)/0/conv/b'"),
    ],
    ids=["values", "shapes", "names"],
)
def test_foreign_weights_are_refused(folder: Path, other, said) -> None:
    weights.save(folder / "weights.npz", other)
    with pytest.raises(DataError, match=said):
        load_package(folder)


def test_weights_changed_in_one_bit_are_refused(folder: Path) -> None:
    found, _ = load_package(folder)
    found.head_b.array.view(np.uint32).flat[0] ^= 1
    weights.save(folder / "weights.npz", found)
    with pytest.raises(DataError, match=r"is not what package\.json describes"):
        load_package(folder)


@pytest.mark.parametrize("name", ["package.json", "weights.npz"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        load_package(folder)


def test_a_card_is_a_value() -> None:
    card = Card(arch={}, epsilons=Epsilons(), channels=3, weights="")
    with pytest.raises(ValueError, match="frozen"):
        card.channels = 1


def hinted(**changes: object) -> AttackNetwork:
    arch = parse_arch({"name": "recurrent", "width": 4, "norm": "batch", **changes})
    return build(arch, Epsilons(mode="film", values=(4, 8)), channels=1, seed=0, hint=hint())


def attacked(network: AttackNetwork) -> np.ndarray:
    x = np.random.default_rng(0).uniform(size=(3, 1, 9, 12)).astype(np.float32)
    with chainer.no_backprop_mode(), chainer.using_config("train", False):
        return network(x, np.array([4, 5, 16])).array


@pytest.fixture
def package(tmp_path: Path) -> Path:
    save_package(tmp_path / "package", hinted(), RECORD)
    return tmp_path / "package"


def test_a_package_carries_what_gives_its_hints(package: Path) -> None:
    found, card = load_package(package)
    assert sorted(p.name for p in package.iterdir()) == [
        "CARD.md", "hint.npz", "package.json", "weights.npz",
    ]  # fmt: skip
    np.testing.assert_array_equal(attacked(found), attacked(hinted()))
    assert (card.hint.kind, card.hint.classifier) == ("multiscale", "vgg-w4")
    assert (card.hint.classes, card.hint.size) == (7, 12)
    assert card.hint.weights == weights.digest(hint().classifier)
    assert found.hint.classifier.frozen
    save_package(package.with_name("again"), found, RECORD)
    for name in ("hint.npz", "weights.npz", "package.json"):
        assert (package / name).read_bytes() == (package.with_name("again") / name).read_bytes()


def test_the_card_says_what_a_hint_costs(package: Path) -> None:
    text = (package / "CARD.md").read_text()
    assert "- hint: `multiscale` from `vgg-w4` (hint.npz, sha256 `" in text
    assert "an attack costs one forward and one backward pass of such a classifier" in text


def test_the_card_names_the_budget_a_network_was_trained_for(tmp_path: Path) -> None:
    epsilons = Epsilons(mode="single", values=(4, 8, 16), single=5)
    network = build(parse_arch({"name": "unet", "width": 4}), epsilons, channels=1, seed=0)
    save_package(tmp_path / "package", network, {})
    assert load_package(tmp_path / "package")[1].epsilons == epsilons
    assert "- budgets: 5 of 255, mode `single`" in (tmp_path / "package" / "CARD.md").read_text()


@pytest.mark.data
def test_a_pretrained_classifier_travels_as_its_own_file(real_data: Path, tmp_path: Path) -> None:
    path = real_data / "weights" / "cifar10_resnet20.npz"
    own = classifiers.build(f"npz:{path}", channels=3, classes=10, size=40, seed=0)
    network = build(
        parse_arch({"name": "unet", "width": 4}), Epsilons(), channels=3, seed=0,
        hint=Hint("input", f"npz:{path}", own),
    )  # fmt: skip
    save_package(tmp_path / "package", network, {})
    assert (tmp_path / "package" / "hint.npz").read_bytes() == path.read_bytes()
    found, card = load_package(tmp_path / "package")
    assert card.hint.classifier == "npz:cifar10_resnet20.npz"
    x = np.random.default_rng(0).uniform(size=(2, 3, 16, 16)).astype(np.float32)
    np.testing.assert_array_equal(
        found(x, np.array([4, 8])).array, network(x, np.array([4, 8])).array
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classifier": "plain-w4"}, "hint.npz' lacks 'convs/0/"),
        ({"classifier": "dense"}, "classifier is 'dense': allowed are plain, vgg"),
        ({"classifier": "net.py:Net"}, "hint.classifier is 'net.py:Net'; allowed: an architecture"),
        ({"classifier": "npz:x"}, "hint.npz' holds "),
        ({"classes": 8}, "expected float32[8"),
        ({"weights": "0"}, "hint.npz is not what package.json describes"),
        (
            {"kind": "all"},
            "is damaged: hint.kind is 'all': input should be 'input' or 'multiscale'",
        ),
    ],
)
def test_a_hint_that_is_not_what_the_card_says_is_refused(package: Path, changes, said) -> None:
    card = json.loads((package / "package.json").read_text())
    edit(package, hint=card["hint"] | changes)
    with pytest.raises(DataError) as raised:
        load_package(package)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_code_that_a_package_names_is_not_run(package: Path, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nNet = None\n")
    card = json.loads((package / "package.json").read_text())
    edit(package, hint=card["hint"] | {"classifier": f"{tmp_path / 'net.py'}:Net"})
    with pytest.raises(DataError, match=r"allowed: an architecture of models\.classifiers"):
        load_package(package)
    assert not (tmp_path / "ran").exists()


def test_a_hint_changed_in_one_bit_is_refused(package: Path) -> None:
    own = hint().classifier
    own.linear.b.array.view(np.uint32).flat[0] ^= 1
    weights.save(package / "hint.npz", own)
    with pytest.raises(DataError, match=r"hint\.npz is not what package\.json describes"):
        load_package(package)
    (package / "hint.npz").unlink()
    with pytest.raises(DataError, match=r"has no hint\.npz, which package\.json describes"):
        load_package(package)


def test_the_steps_of_a_hint_travel_with_the_package(tmp_path: Path) -> None:
    own = hint()
    network = build(
        parse_arch({"name": "unet", "width": 4}), Epsilons(), channels=1, seed=0,
        hint=Hint(own.kind, own.text, own.classifier, steps=3, gain=1.5),
    )  # fmt: skip
    save_package(tmp_path / "package", network, RECORD)
    found, card = load_package(tmp_path / "package")
    assert (card.hint.steps, card.hint.gain) == (3, 1.5)
    without = card.model_copy(update={"hint": card.hint.model_copy(update={"steps": 0})})
    assert without.weights == card.weights
    assert without.digest != card.digest
    np.testing.assert_array_equal(attacked(found), attacked(network))
    text = (tmp_path / "package" / "CARD.md").read_text()
    assert "- hint: `multiscale` and 3 steps of gain 1.5 from `vgg-w4`" in text
    assert "an attack costs 3 passes there and back of such a classifier" in text


@pytest.fixture
def turning(tmp_path: Path) -> Path:
    """A package whose hint asks two classifiers by turns."""
    own, network = hint(), hinted()
    other = classifiers.build("plain-w4", channels=1, classes=7, size=12, seed=5)
    network.hint = replace(own, steps=2, second=Hint("input", "plain-w4", other))
    save_package(tmp_path / "turning", network, RECORD)
    return tmp_path / "turning"


def test_a_second_classifier_travels_with_the_package(turning: Path, package: Path) -> None:
    found, card = load_package(turning)
    assert (turning / "second.npz").is_file()
    assert (card.hint.second.kind, card.hint.second.classifier) == ("input", "plain-w4")
    assert card.hint.second.weights == weights.digest(found.hint.second.classifier)
    assert found.hint.second.classifier.frozen
    assert ", by turns with `plain-w4` (second.npz, sha256 `" in (turning / "CARD.md").read_text()
    alone, _ = load_package(package)
    alone.hint = replace(alone.hint, steps=2)
    assert np.abs(attacked(found) - attacked(alone)).max() > 1e-4
    save_package(turning, alone, RECORD)
    assert not (turning / "second.npz").exists()


def test_all_that_take_turns_travel_with_the_package(turning: Path, tmp_path: Path) -> None:
    network, _ = load_package(turning)
    third = Hint(
        "input",
        "resnet8-w4",
        classifiers.build("resnet8-w4", channels=1, classes=7, size=12, seed=6),
    )
    network.hint = replace(network.hint, steps=3, second=replace(network.hint.second, second=third))
    save_package(tmp_path / "three", network, RECORD)
    found, _ = load_package(tmp_path / "three")
    assert [asked.text for asked in found.hint.turns] == ["vgg-w4", "plain-w4", "resnet8-w4"]
    np.testing.assert_array_equal(attacked(found), attacked(network))
    text = (tmp_path / "three" / "CARD.md").read_text()
    assert ", by turns with `plain-w4` (second.npz, sha256 `" in text
    assert ", by turns with `resnet8-w4` (second-2.npz, sha256 `" in text
    save_package(tmp_path / "three", load_package(turning)[0], RECORD)
    assert not (tmp_path / "three" / "second-2.npz").exists()


def test_one_that_was_trained_on_travels_in_the_form_its_file_had(tmp_path: Path) -> None:
    shape = {"channels": 3, "classes": 7, "size": 32}
    file, folder = tmp_path / "net.npz", tmp_path / "on"
    pretrained.save(file, classifiers.build("resnet8-w2-s1", **shape, seed=0))
    own = classifiers.build(f"npz:{file}~fgsm-rs:1", **shape, seed=0)
    for parameter in own.params():
        parameter.array += 0.1
    arch = parse_arch({"name": "resnet", "width": 4, "downs": 1, "blocks": 0})
    hint = Hint("input", f"npz:{file}~fgsm-rs:1", own, steps=2)
    save_package(folder, build(arch, Epsilons(), channels=3, seed=0, hint=hint), RECORD)
    file.unlink()
    found, card = load_package(folder)
    assert card.hint.classifier == "npz:net.npz~fgsm-rs:1"
    assert weights.digest(found.hint.classifier) == weights.digest(own)
    save_package(tmp_path / "again", found, RECORD)
    again, _ = load_package(tmp_path / "again")
    assert weights.digest(again.hint.classifier) == weights.digest(own)


@pytest.fixture
def accompanied(turning: Path) -> AttackNetwork:
    """A network whose hint asks two more classifiers at once."""
    by_turns, _ = load_package(turning)
    beside = tuple(
        Hint("input", text, classifiers.build(text, channels=1, classes=7, size=12, seed=7))
        for text in ("resnet8-w4", "vgg-w2")
    )
    hint = replace(by_turns.hint, beside=beside)
    return build(by_turns.arch, by_turns.epsilons, channels=1, seed=0, hint=hint)


def test_those_that_are_asked_at_once_travel_along(turning: Path, accompanied, tmp_path) -> None:
    folder, (by_turns, _) = tmp_path / "accompanied", load_package(turning)
    save_package(folder, accompanied, RECORD)
    found, card = load_package(folder)
    assert [other.text for other in found.hint.beside] == ["resnet8-w4", "vgg-w2"]
    assert {path.name for path in folder.glob("*.npz")} == {
        "beside-1.npz", "beside-2.npz", "hint.npz", "second.npz", "weights.npz",
    }  # fmt: skip
    np.testing.assert_array_equal(attacked(found), attacked(accompanied))
    text = (folder / "CARD.md").read_text()
    assert ", beside `resnet8-w4` (beside-1.npz, sha256 `" in text
    assert ", beside `vgg-w2` (beside-2.npz, sha256 `" in text
    assert "an attack costs 4 passes there and back of such a classifier" in text
    apart = card.model_copy(update={"hint": card.hint.model_copy(update={"beside": ()})})
    assert apart.digest != card.digest
    save_package(folder, by_turns, RECORD)  # replaces it, with all of its files
    assert not (folder / "beside-1.npz").exists()


def test_packages_of_before_those_beside_took_steps_are_called_what_they_were(
    accompanied, tmp_path
) -> None:
    before = save_package(tmp_path / "accompanied", accompanied, RECORD)
    facts = before.model_dump(include={"arch", "epsilons", "channels", "weights", "hint"})
    for hint in (facts["hint"], facts["hint"]["second"], *facts["hint"]["beside"]):
        del hint["beside_gain"]
    del facts["hint"]["second"]["beside"]
    assert before.digest == sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def test_packages_of_before_any_could_be_asked_at_once_are_called_what_they_were(turning) -> None:
    _, before = load_package(turning)
    facts = before.model_dump(include={"arch", "epsilons", "channels", "weights", "hint"})
    for hint in (facts["hint"], facts["hint"]["second"]):
        del hint["beside"], hint["beside_gain"]
    assert before.digest == sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@pytest.mark.parametrize(
    ("name", "fault"),
    [("second.npz", "lacks"), ("beside-2.npz", r"'linear/W' is float32\[7, 16\], expected")],
)
def test_a_further_classifier_that_is_another_or_away_is_refused(
    name: str, fault: str, accompanied, tmp_path
) -> None:
    folder = tmp_path / "accompanied"
    save_package(folder, accompanied, RECORD)
    shutil.copy(folder / "beside-1.npz", folder / name)
    with pytest.raises(DataError, match=rf"{name}':? {fault}"):
        load_package(folder)
    (folder / name).unlink()
    with pytest.raises(DataError, match=rf"has no {name}, which package\.json describes"):
        load_package(folder)


def test_the_steps_of_an_attack_can_be_chosen_anew(turning: Path, folder: Path) -> None:
    (network, card), (three, other) = load_package(turning), load_package(turning, steps=3)
    assert (three.hint.steps, other.hint.steps) == (3, 3)
    assert other.digest != card.digest
    assert other.weights == card.weights
    assert np.abs(attacked(three) - attacked(network)).max() > 1e-4
    with pytest.raises(UsageError, match=r"^steps is 2, and package '.*' has no hint to climb$"):
        load_package(folder, steps=2)


def test_the_step_of_those_beside_travels_along(accompanied, tmp_path) -> None:
    accompanied.hint = replace(accompanied.hint, steps=3)
    before = save_package(tmp_path / "without", accompanied, RECORD)
    accompanied.hint = replace(accompanied.hint, beside_gain=0.5)
    card = save_package(tmp_path / "with", accompanied, RECORD)
    found, told = load_package(tmp_path / "with")
    assert (told.hint.beside_gain, told.digest) == (0.5, card.digest)
    assert card.digest != before.digest
    np.testing.assert_array_equal(attacked(found), attacked(accompanied))
    text = (tmp_path / "with" / "CARD.md").read_text()
    assert "3 steps of gain 1 (0.5 of those beside it) from `vgg-w4`" in text
    # At first all three at once, then the second, then the two that are beside it.
    assert "an attack costs 6 passes there and back of such a classifier" in text
    without = (tmp_path / "without" / "CARD.md").read_text()
    assert "an attack costs 5 passes there and back of such a classifier" in without


def test_packages_from_before_steps_are_read(package: Path) -> None:
    card = json.loads((package / "package.json").read_text())
    del card["hint"]["steps"], card["hint"]["gain"]
    edit(package, hint=card["hint"])
    assert not load_package(package)[0].hint.steps


def test_packages_from_before_hints_and_modes_are_read(folder: Path) -> None:
    card = json.loads((folder / "package.json").read_text())
    del card["hint"], card["epsilons"]["single"]
    (folder / "package.json").write_text(json.dumps(card))
    found, _ = load_package(folder)
    assert weights.digest(found) == weights.digest(network())
    assert found.hint is None
