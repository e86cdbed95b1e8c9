"""Train classifiers and score attacks on the ranks of this job.

    mpiexec -n 2 python evaluation_job.py RESULT.json

Each rank has a cache of its own, beside the result, as on machines without a shared file system.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from objectives.baselines import baseline
from objectives.classifier import ClassifierSpec, train_classifier
from objectives.data import load
from objectives.evaluation import error_rates, logits_of, score
from objectives.measures import error_table
from objectives.targets import load_targets
from study.mpi import mpi_world
from study.world import World

# isort: split
from models import weights

ATTACKS = ("noop", "random", "fgsm", "di-ti-si-rn-mi-pgd:steps=2,copies=2")
TEXTS = ("plain-w2", "plain-w3", "resnet8-w2")


def results(world: World) -> dict[str, Any]:
    data = load("digits")
    nets = load_targets(TEXTS, data, 320, world)
    digests = {text: weights.digest(net) for text, net in nets.items()}
    # 33 images on 2 or 4 ranks: the shares differ.
    images, labels = data.tune.images[:33], data.tune.labels[:33]
    attacks = {name: baseline(name, list(nets.values())) for name in ATTACKS}
    table = error_table(
        score(attacks, nets, images, labels, dict.fromkeys(attacks, (8, 32)), world)
    )
    *_, (_, robust) = train_classifier(
        ClassifierSpec(classifier="plain-w2~pgd:16x2"), data, 320, 0, world
    )
    rates = error_rates(
        attacks["fgsm"], list(nets.values()), images[:1], labels[:1], (8, 32), world
    )
    return {
        "digests": digests,
        "equal": len({json.dumps(d, sort_keys=True) for d in world.allgather(digests)}) == 1,
        "files": world.allgather(sorted(p.name for p in _cache().glob("classifiers/*"))),
        "table": json.loads(table.to_json(orient="records", double_precision=15)),
        "rates": rates.tolist(),
        "robust": logits_of(robust, images).tolist(),
        "logits": float(logits_of(nets["plain-w2"], images).sum()),
    }


def _cache() -> Path:
    return Path(os.environ["JIGSAW_CACHE"])


if __name__ == "__main__":
    world = mpi_world(hang_timeout=30)
    target = Path(sys.argv[1])
    os.environ["JIGSAW_CACHE"] = str(target.with_name(f"cache-{world.rank}"))
    found = world.together(lambda: results(world))
    if world.rank == 0:
        target.write_text(json.dumps(found))
