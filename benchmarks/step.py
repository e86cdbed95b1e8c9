"""The training step that is measured: an attack network 3 -> 32 -> 64 with 4 residual blocks, on 32 x 32
images in batches of 64, through a frozen ResNet-20.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BATCH = 64
WIDTH, BLOCKS = 16, 4
NORM = "batch"
SEED = 0


def images(count: int = 512) -> NDArray[np.uint8]:
    """Return random images (count, 3, 32, 32): what they show does not change what they cost."""
    return np.random.default_rng(SEED).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def ours(
    provider: str,
    *,
    world: "object | None" = None,
    batch: int = BATCH,
    norm: str = NORM,
    count: int = 512,
) -> Iterator[float]:
    """Train with the kernels of `provider`; yield the loss after each update, as fast as it goes."""
    from models import device, kernels
    from models.classifiers import build, freeze
    from objectives.attack import train_attack
    from objectives.data import Split
    from objectives.spec import AttackSpec
    from objectives.targets import CleanLogits
    from study.world import World

    spec = AttackSpec.model_validate(
        {
            "arch": {"name": "resnet", "width": WIDTH, "downs": 2, "blocks": BLOCKS, "norm": norm},
            "batch": {"size": batch},
            "augment": {"diversity": 0.0},
        }
    )
    pixels = images(count)
    split = Split(pixels, np.zeros(len(pixels), np.int32))
    target = build("resnet20-w16-s1", channels=3, classes=10, size=32, seed=SEED)
    target = freeze(device.send(target))
    clean = CleanLogits(target, pixels)
    with kernels.using(provider):
        _know(clean, len(pixels))
    steps = train_attack(
        spec, split, {"resnet20": (target, clean)},
        images=10**9, seed=SEED, world=world or World(),
    )  # fmt: skip
    while True:
        with kernels.using(provider):
            _, loss, _ = next(steps)
        yield loss


def _know(clean: Callable[..., object], images: int) -> None:
    """Compute all clean logits, as `benchmarks.torch_step` does: a worker does so once for all its trials."""
    for flipped in (False, True):
        clean(np.arange(images), np.full(images, flipped))


def parameters() -> tuple[int, int]:
    """Return how many parameters our attack network and our ResNet-20 have."""
    from models.classifiers import build as build_classifier
    from models.generators import build, parse_arch
    from models.generators.network import Epsilons

    arch = parse_arch(
        {"name": "resnet", "width": WIDTH, "downs": 2, "blocks": BLOCKS, "norm": NORM}
    )
    network = build(arch, Epsilons(mode="scaled"), channels=3, seed=SEED)
    target = build_classifier("resnet20-w16-s1", channels=3, classes=10, size=32, seed=SEED)
    return network.count_params(), target.count_params()


def alone(provider: str, steps: int) -> dict[str, float]:
    """Measure this process: seconds to import, to the first step, of `steps` more; peak memory in MB."""
    started = time.perf_counter()
    import objectives.attack  # noqa: F401

    imported = time.perf_counter()
    run = ours(provider)
    next(run)
    first = time.perf_counter()
    for _ in range(steps):
        next(run)
    done = time.perf_counter()
    peak = _peak_memory()
    return {
        "import": imported - started,
        "first": first - imported,
        "epoch": done - first,
        "peak": peak,
    }


def _peak_memory() -> float:
    """Return MB; `getrusage` would also count the process that started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    print(json.dumps(alone(sys.argv[1], int(sys.argv[2]))))
