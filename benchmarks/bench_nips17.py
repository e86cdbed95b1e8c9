"""`make bench-nips17`: a study on the images of the NIPS'17 contest, and what its winner does to classifiers of ImageNet.

Team iwiwi trained on 128 GPUs; here a processor core has minutes, so images are shrunk to 96 x 96 and classifiers are small
MobileNets. It says how far that reaches, not how far attack networks go.

    train   MobileNet v1, width 0.25 and 0.5: 128 and 160 pixels
    tune    MobileNet v1, width 0.75: 192 pixels
    report  MobileNet v2: 224 pixels, and SqueezeNet, which no other is related to: 227 pixels

A study of TPE draws trials from the whole search space; its best is trained again for longer, and shown the report
images beside baselines with gradients of the train classifiers. What is there is not computed again.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.attack_baseline import MI_FGSM
from benchmarks.claims import Claim, write
from benchmarks.command_line import assigned, jigsaw, storage
from models.classifiers import resize
from models.package import load_package, save_package
from models.pixels import to_bytes, to_unit
from objectives.attack import AttackObjective, AttackSettings
from objectives.baselines import baseline, noop, random_sign
from objectives.data import DataSet, Split, load
from objectives.evaluation import Attack, network_attack, score
from objectives.measures import Answers, difference
from objectives.retraining import retrain
from objectives.spec import AttackSpec
from objectives.targets import load_targets
from study.search.studies import find_trial, load_study
from study.world import World
from tests.conftest import DATA

__all__ = ["main", "small"]

QUICK = bool(os.environ.get("QUICK"))
FOLDER = Path("runs/nips17-quick" if QUICK else "runs/nips17")
_DATA = os.path.relpath(DATA)
SIZE = 96
_SMALL = f"{__spec__.name}:small"
TRIALS, TRIAL, WINNER = (2, 16, 16) if QUICK else (16, 512, 4_096)
SHOWN = 10 if QUICK else None  # report images; None for all
EPSILONS = (8,) if QUICK else (4, 8, 12, 16)
OURS = "the study's winner"


def small() -> DataSet:
    """The contest's development images that are there, SIZE pixels high and wide."""
    whole = load(f"nips17:{_DATA}/nips17_dev")
    return DataSet(
        whole.name, whole.classes, *map(_shrunk, (whole.train, whole.tune, whole.report))
    )


def _shrunk(split: Split) -> Split:
    images = resize(to_unit(split.images), (SIZE, SIZE)).array
    return replace(split, images=to_bytes(images))


def _settings(**changes: Any) -> dict[str, Any]:
    def net(name: str) -> str:
        return f"npz:{_DATA}/weights/imagenet_{name}.npz"

    return {
        "data": _SMALL,
        "train": (net("mobilenet_v1_0.25_128"), net("mobilenet_v1_0.5_160")),
        "tune": (net("mobilenet_v1_0.75_192"),),
        "report": (net("mobilenet_v2_1.0_224"), net("squeezenet_v1.0_dc")),
        "tune_images": 8 if QUICK else len(load(_SMALL).tune.labels),
        "images": TRIAL,
        "reports": 1,
        **changes,
    }


def main() -> None:
    _search()
    package = FOLDER / "winner"
    if not package.exists():
        _train(package)
    network, card = load_package(package)
    given = AttackSettings(**_settings())
    data, world = load(given.data), World()
    nets = load_targets((*given.train, *given.report), data, 1, world)
    targets = [nets[text] for text in given.train]
    attacks: dict[str, Attack] = {
        "noop": noop, "random": random_sign, "fgsm": baseline("fgsm", targets),
        MI_FGSM: baseline(MI_FGSM, targets), OURS: network_attack(network),
    }  # fmt: skip
    report = data.report.evenly(SHOWN) if SHOWN else data.report
    answers = score(
        attacks, {text: nets[text] for text in given.report}, report.images, report.labels,
        dict.fromkeys(attacks, EPSILONS), world,
    )  # fmt: skip
    facts = {
        "images": f"{len(report.labels)} report images of {SIZE} pixels; {len(data.train.labels)} to train on",
        "study": f"{TRIALS} trials of {TRIAL:,} images, TPE; the best trained on {WINNER:,} images",
        "winner": card.record["spec"],
    }
    write(
        "nips17_quick" if QUICK else "nips17", list(_claims(answers, given.report, attacks)), facts
    )


def _claims(answers: Answers, texts: tuple[str, ...], attacks: Any) -> Iterator[Claim]:
    for epsilon in EPSILONS:
        for name in attacks:
            each = [float(np.mean(answers.wrong(name, epsilon, text))) for text in texts]
            yield Claim(
                f"{name}, eps {epsilon}: mean error over the report set", 100 * float(np.mean(each)), "%",
                note=", ".join(
                    f"{100 * error:.1f} % of {Path(text).stem.removeprefix('imagenet_')}"
                    for text, error in zip(texts, each, strict=True)
                ),
            )  # fmt: skip
        apart, low, high = (
            100 * v for v in difference(answers, [OURS], [MI_FGSM], epsilon, *texts)
        )
        yield Claim(
            f"{OURS}, eps {epsilon}: mean error above {MI_FGSM}, lower end of the 95 % interval",
            low, "points", 0.0, "larger", note=f"{apart:+.1f} points, {low:+.1f} .. {high:+.1f}",
        )  # fmt: skip


def _search() -> None:
    sampler = "tpe:n_startup_trials=6"
    jigsaw(FOLDER, "create", "nips17", "--exist-ok", "--sampler", sampler, *assigned(_settings()))
    jigsaw(FOLDER, "worker", "nips17", "--total-trials", str(TRIALS))


def _train(package: Path) -> None:
    best = find_trial(load_study(storage(FOLDER), "nips17"), "best")
    spec = AttackSpec.model_validate_json(best.user_attrs["spec"])
    objective = AttackObjective(**_settings(images=WINNER))
    again = retrain(objective, spec, 1, World(), {"study": "nips17", "trial": best.number})
    save_package(package, again.network, again.record)


if __name__ == "__main__":
    main()
