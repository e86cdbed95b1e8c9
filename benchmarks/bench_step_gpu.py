"""`make bench-step-gpu`: the training step of `make bench-step` on a GPU, beside PyTorch's.

All contestants take turns in one process, each synchronised by the loss it returns; ratios are medians over rounds.
A step of few images measures what Python costs, a step of many what the GPU does, so both are shown.
"""

import os
from collections.abc import Iterator

import numpy as np

from benchmarks.bench_step import contestants, in_turn
from benchmarks.claims import Claim, write
from benchmarks.step import SEED

__all__ = ["main"]

QUICK = bool(os.environ.get("QUICK"))
ROUNDS = 5 if QUICK else 30
BATCHES = (64, 1024)


def main() -> None:
    os.environ["JIGSAW_DEVICE"] = "cuda"
    write("step_gpu", list(_claims()), {"device": _device(), "rounds": ROUNDS, "seed": SEED})


def _claims() -> Iterator[Claim]:
    for batch in BATCHES:
        found = contestants(("torch", "chainer"), device="cuda", batch=batch)
        seconds = in_turn(found, ROUNDS)
        for name, what in (
            ("torch", "torch kernels"), ("chainer", "chainer as shipped"),
            ("channels_last", "PyTorch channels_last"), ("eager", "PyTorch eager"),
        ):  # fmt: skip
            spent = np.median(seconds[name])
            yield Claim(
                f"training step of {batch} images, {what}",
                float(np.median(seconds[name] / seconds["eager"])), "x",
                baseline="PyTorch eager", baseline_value=1.0,
                note=f"median {1e3 * spent:.1f} ms, {batch / spent:,.0f} images/s",
            )  # fmt: skip


def _device() -> str:
    from models import device
    from study.provenance import registered, versions

    device.current()
    cupy = next((f"{n} {v}" for n, v in versions().items() if n.startswith("cupy")), "cupy")
    return f"{registered()['device']['arrays']}; {cupy}, torch {versions().get('torch')}"


if __name__ == "__main__":
    main()
