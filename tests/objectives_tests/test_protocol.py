"""What an attack knew of its judge, from texts and networks."""

import models  # noqa: F401  makes Chainer importable

# isort: split
import pytest

from models import weights
from models.classifiers import ARCHITECTURES, build, defend
from models.classifiers.resize import Resized
from models.defences import split_defences
from objectives.protocol import family, relation, seen_by_baseline, seen_by_network


@pytest.mark.parametrize("name", [*ARCHITECTURES])
def test_the_text_and_the_network_agree_on_the_family(name) -> None:
    net = build(name, channels=1, classes=3, size=8, seed=0)
    assert family(f"jpeg:50+{name}-w9~pgd:8@3") == family(name, net) != ""
    behind = defend(Resized(net, 9), split_defences("bits:3+x")[0])
    assert family("npz:whatever", behind) == family(name)


@pytest.mark.parametrize("text", ["npz:resnet20.npz", "net.py:vgg", "torch:a.py:Net", "vggish"])
def test_what_a_text_does_not_tell_is_unknown(text) -> None:
    assert family(text) == ""


@pytest.mark.parametrize(
    ("text", "seen", "expected"),
    [
        ("resnet8", ["resnet8"], "seen"),
        ("resnet8@0", ["vgg", "resnet8"], "seen"),
        ("jpeg:50+resnet8", ["resnet8"], "seen"),
        ("resnet8", ["median:3+resnet8"], "seen"),
        ("jpeg:50+vgg", ["jpeg:90+plain"], "seen"),
        ("resnet8@1", ["resnet8"], "family"),
        ("jpeg:50+resnet20", ["resnet8"], "family"),
        ("resnet8~pgd", ["resnet8"], "family"),
        ("vgg", ["resnet8", "plain"], "cross"),
        ("jpeg:50+vgg", ["median:3+resnet8"], "cross"),
        ("npz:a.npz", ["npz:b.npz"], "cross"),
        ("npz:x/../a.npz", ["npz:a.npz"], "seen"),
        ("vgg", [], "cross"),
    ],
)
def test_relations(text, seen, expected) -> None:
    assert relation(text, seen, {}) == expected


def test_networks_tell_the_family_where_texts_do_not() -> None:
    nets = {
        "npz:a": build("resnet8", channels=1, classes=3, size=8, seed=0),
        "npz:b": build("resnet14", channels=1, classes=3, size=8, seed=0),
    }
    assert relation("npz:a", ["npz:b"], nets) == "family"
    assert relation("npz:a", ["resnet20"], nets) == "family"
    assert relation("npz:a", ["vgg"], nets) == "cross"


def test_weights_that_were_written_down_are_known_wherever_their_file_went() -> None:
    nets = {
        f"npz:{seed}": build("resnet8", channels=1, classes=3, size=8, seed=seed) for seed in (1, 2)
    }
    nets["bits:3+npz:1"] = defend(nets["npz:1"], split_defences("bits:3+x")[0])
    digests = [weights.digest(nets["npz:1"])]
    found = {text: relation(text, ["npz:gone"], nets, digests) for text in nets}
    assert found == {"npz:1": "seen", "bits:3+npz:1": "seen", "npz:2": "cross"}


@pytest.mark.parametrize("diversity", [0, 0.3])
def test_an_attack_package_has_seen_what_it_was_trained_and_tuned_on(diversity) -> None:
    record = {
        "conditions": {"train": ["resnet8", "vgg"], "tune": ["mobilenet"], "report": ["plain"]},
        "spec": {"augment": {"diversity": diversity}},
    }
    seen = seen_by_network(record)
    answers = {
        text: relation(text, seen, {}) for text in ("mobilenet", "plain", "resize:0.9+plain")
    }
    behind = "seen" if diversity else "cross"
    assert answers == {"mobilenet": "seen", "plain": "cross", "resize:0.9+plain": behind}
    assert seen_by_network({}) == ()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("mi-fgsm", "cross"), ("di-mi-fgsm:steps=5", "seen"), ("mi-fgsm:di-x", "cross")],
)
def test_input_diversity_is_the_defence_that_resizes(name, expected) -> None:
    seen = seen_by_baseline(name, ["vgg"])
    assert relation("resize:0.8+plain", seen, {}) == expected
    assert relation("median:3+plain", seen, {}) == "cross"
