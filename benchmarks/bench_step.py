"""`make bench-step`: one training step beside PyTorch's, on one rank and on several.

All contestants take turns in one process on one core, so that what slows the machine slows them alike;
ratios are medians over rounds.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from operator import truediv
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims import Claim, write
from benchmarks.scaling import Link, Traffic
from benchmarks.step import BATCH, BLOCKS, SEED, WIDTH, images, ours, parameters

QUICK = bool(os.environ.get("QUICK"))
ROUNDS = 5 if QUICK else 15
# 10 Gbit Ethernet over TCP: assumed, not measured here.
ETHERNET = Link(alpha=30e-6, beta=1.25e9)
RANKS = 128

__all__ = ["contestants", "in_turn", "main"]


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    seconds = in_turn(contestants(("torch", "numpy", "chainer")), ROUNDS)
    claims = _step_claims(seconds) + _process_claims() + _scaling_claims()
    write("step", claims, {"rounds": ROUNDS, "seed": SEED, "threads per rank": 1})


def contestants(
    providers: Sequence[str], *, device: str = "cpu", batch: int = BATCH
) -> dict[str, Iterator[float]]:
    """Return what takes turns: the step in PyTorch, `eager` and `channels_last`, and ours by provider."""
    import torch

    from benchmarks import torch_step

    torch.set_num_threads(1)
    pixels, found = images(max(512, batch)), {}
    for name, layout in (
        ("eager", torch.contiguous_format), ("channels_last", torch.channels_last),
    ):  # fmt: skip
        torch.manual_seed(SEED)
        generator, target = torch_step.Generator(WIDTH, BLOCKS), torch_step.ResNet20(10)
        _same_size(generator, target)
        found[name] = torch_step.train(
            pixels, generator, target, batch=batch, layout=layout, seed=SEED, device=device
        )
    return found | {name: ours(name, batch=batch, count=len(pixels)) for name in providers}


def _same_size(*modules: Any) -> None:
    counts = tuple(sum(p.numel() for p in m.parameters()) for m in modules)
    if counts != parameters():
        raise RuntimeError(f"PyTorch's networks have {counts} parameters, ours {parameters()}")


def in_turn(found: Mapping[str, Iterator[float]], rounds: int) -> dict[str, np.ndarray]:
    """Return the seconds of each contestant's steps, after two that do not count."""
    for steps in found.values():
        next(steps), next(steps)
    spent: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, steps in found.items():
            started = time.perf_counter()
            next(steps)
            spent[name].append(time.perf_counter() - started)
    return {name: np.array(values) for name, values in spent.items()}


def _step_claims(seconds: Mapping[str, np.ndarray]) -> list[Claim]:
    def ratio(name: str) -> float:
        return float(np.median(seconds[name] / seconds["eager"]))

    def told(name: str) -> str:
        return f"median {1e3 * np.median(seconds[name]):.1f} ms"

    eager = {"unit": "x", "baseline": "PyTorch eager", "baseline_value": 1.0}
    stretch = {
        "unit": "x",
        "baseline": "PyTorch channels_last",
        "baseline_value": ratio("channels_last"),
    }
    return [
        Claim("training step, torch kernels", ratio("torch"), goal=1.0, note=told("torch"), **eager),
        Claim("training step, torch kernels (stretch: below the baseline)", ratio("torch"), **stretch),
        Claim("training step, numpy kernels", ratio("numpy"), goal=2.0, note=told("numpy"), **eager),
        Claim("training step, chainer as shipped", ratio("chainer"), note=told("chainer"), **eager),
        Claim("training step, PyTorch channels_last", ratio("channels_last"), note=told("channels_last"), **eager),
        Claim("training step, PyTorch eager", float(1e3 * np.median(seconds["eager"])), "ms"),
    ]  # fmt: skip


def _process_claims() -> list[Claim]:
    steps = 2048 // BATCH
    claims = []
    for provider in ("torch", "numpy", "chainer"):
        found = json.loads(_python("benchmarks.step", provider, str(steps)))
        claims += [
            Claim(f"import, {provider} kernels", found["import"], "s"),
            Claim(f"first step with set-up, {provider} kernels", found["first"], "s"),
            Claim(f"2,048 images, {provider} kernels", found["epoch"], "s"),
            Claim(f"peak memory, {provider} kernels", found["peak"], "MB"),
        ]
    return claims


def _scaling_claims() -> list[Claim]:
    claims = []
    for norm in ("batch", "instance"):
        found = json.loads(
            _python("benchmarks.scaling", "torch", norm, str(ROUNDS), str(BATCH), ranks=2)
        )
        claims += _claims_of(norm, found)
    return claims


def _claims_of(norm: str, found: Mapping[str, Any]) -> list[Claim]:
    one, apart, two = (statistics.median(found[name]) for name in ("one", "apart", "two"))
    traffic = Traffic(tuple(found["sizes"]))
    here = _fit(found["bare"])
    sent = traffic.seconds(here, 2)
    off = statistics.median(
        (a + sent) / b - 1 for a, b in zip(found["one"], found["two"], strict=True)
    )
    far = traffic.seconds(ETHERNET, RANKS)
    hidden = traffic.short().seconds(ETHERNET, RANKS)

    def ratio(first: str, second: str) -> float:
        """Return the median over rounds, in each of which the machine is as fast for both."""
        return statistics.median(map(truediv, found[first], found[second]))

    shared = ratio("apart", "two")
    what = f"{len(traffic.sizes)} collectives, {sum(traffic.sizes) / 1e6:.2f} MB per step"
    return [
        Claim(f"weak scaling, 2 ranks, {norm} normalisation", ratio("one", "two"), "of one rank", 0.95,
              "larger", note=f"{1e3 * one:.1f} ms alone, {1e3 * two:.1f} ms together; {what}"),
        Claim(f"two ranks that exchange nothing, {norm} normalisation", ratio("one", "apart"), "of one rank",
              note=f"{1e3 * apart:.1f} ms each: the cores share a machine; together {shared:.3f} of that"),
        Claim(f"model's error at 2 ranks, {norm} normalisation", abs(off), "of the step",
              0.10, note=f"alpha {1e6 * here.alpha:.1f} us, beta {here.beta / 1e9:.2f} GB/s fitted to bare Allreduces"),
        Claim(f"simulated: {RANKS} ranks on 10 GbE, {norm} normalisation, as built", one / (one + far),
              "of one rank", baseline="ChainerMN, 128 GPUs (Akiba et al. 2017)", baseline_value=0.90,
              note="alpha-beta model, alpha 30 us, 1.25 GB/s assumed"),
        Claim(f"simulated: {RANKS} ranks on 10 GbE, {norm} normalisation, gradients overlapped and in fp16",
              one / (one + hidden), "of one rank", 0.90, "larger",
              baseline="ChainerMN, 128 GPUs (Akiba et al. 2017)", baseline_value=0.90,
              note="not built: as built it is the row above"),
    ]  # fmt: skip


def _fit(bare: list[tuple[int, float]]) -> Link:
    """Fit the model of two ranks, where both kinds of message cost about alpha + n / beta."""
    sizes, seconds = np.array(bare).T
    alpha = statistics.median(seconds[sizes <= 64])
    slope = float(np.polyfit(sizes[sizes >= 65536], seconds[sizes >= 65536], 1)[0])
    return Link(alpha, 1 / slope)


def _python(module: str, *arguments: str, ranks: int = 1) -> str:
    mpiexec = (
        [str(Path(sys.executable).with_name("mpiexec")), "-n", str(ranks)] if ranks > 1 else []
    )
    # The ranks take all cores again, whatever this process is bound to.
    done = subprocess.run(
        [*mpiexec, sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE, text=True, check=True, timeout=1800,
        preexec_fn=lambda: os.sched_setaffinity(0, range(os.cpu_count() or 1)),
    )  # fmt: skip
    return done.stdout.strip().splitlines()[-1]


if __name__ == "__main__":
    main()
