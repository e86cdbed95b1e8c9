"""An attack package as a torch module, in this process or as a folder that needs torch alone."""

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import chainer
import numpy as np
import torch

from models import weights
from models.generators import GENERATORS, AttackNetwork, build
from models.generators.network import once
from models.package import load_package
from models.pytorch import attack_network
from models.pytorch.tracing import SOURCE, trace
from models.released import package_folder
from study.errors import UsageError

__all__ = ["convert", "export_torch", "load_torch"]

_MODES = ("heads", "scaled")
_TOLERANCE = 1e-8


def load_torch(package: Path) -> attack_network.AttackNetwork:
    """Return the attack network of a package as a torch module, in evaluation mode.

    Its `forward(images, epsilon)` takes images (N, C, H, W) in [0, 1] of any size and a budget in units
    of 1/255, one or one per image, and returns adversarial images; see
    `models.pytorch.attack_network.AttackNetwork`.

    Raises:
        DataError: the package is missing or damaged.
        UsageError: its network has parts that have no counterpart in torch here.
    """
    network, _ = load_package(Path(package))
    return convert(network)


def convert(network: AttackNetwork) -> attack_network.AttackNetwork:
    """Return a torch module with equal outputs.

    Raises:
        UsageError: the network has parts that have no counterpart in torch here.
    """
    converted = attack_network.AttackNetwork(*_described(network))
    converted.eval()
    _check_equal(network, converted)
    return converted


def export_torch(package: Path, folder: Path) -> Path:
    """Write the attack network of a package as a folder that `torch.hub.load` takes; return it.

        hubconf.py     the network's code, which imports torch and nothing else
        network.pt     the weights and the operations
        CARD.md        how it was made

    Args:
        package: an attack package, or the name of a released one.
        folder: where; it must not exist, its parent is created.

    Raises:
        DataError: the package is missing or damaged.
        UsageError: the folder exists, or the network has parts that have no counterpart in torch here.
    """
    if folder.exists():
        raise UsageError(f"torch folder {str(folder)!r} exists; name another")
    network, _ = load_package(package)
    convert(network)
    description, tensors = _described(network)
    content = {"format": attack_network.FORMAT, "description": description, "tensors": tensors}
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    torch.save(content, fresh / "network.pt")
    shutil.copyfile(attack_network.__file__, fresh / "hubconf.py")
    shutil.copyfile(package_folder(package) / "CARD.md", fresh / "CARD.md")
    return fresh.rename(folder)


def _described(network: AttackNetwork) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    _check_known(network)
    side = network.stride
    x = np.zeros((1, network.channels, side, side), network.head_w.dtype)
    operations, arrays, result = trace(network.trunk, x)
    heads = {name: getattr(network, name).array for name in ("head_w", "head_b")}
    description = {
        "channels": network.channels,
        **network.epsilons.model_dump(include={"mode", "values"}),
        "stride": network.stride,
        "operations": [tuple(operation) for operation in operations],
        "source": SOURCE,
        "result": result,
    }
    return description, _tensors({**arrays, **heads})


def _tensors(arrays: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def _check_known(network: AttackNetwork) -> None:
    if network.epsilons.mode not in _MODES:
        raise UsageError(
            f"epsilon.mode of the network is {network.epsilons.mode!r}: "
            f"what can be exported to torch is {', '.join(_MODES)}"
        )
    if network.hint or GENERATORS[network.arch.name].perturb is not once:
        raise UsageError(
            f"the network is {network.arch.name!r} with{'' if network.hint else 'out'} hints: what can be "
            "exported to torch computes its perturbation in one go, without hints"
        )
    known = ("trunk/", "head_w", "head_b")
    if others := [n for n in sorted(weights.arrays(network)) if not n.startswith(known)]:
        raise UsageError(
            f"the network holds {', '.join(others[:4])}: what can be exported to torch is a trunk "
            "and its heads"
        )


def _check_equal(network: AttackNetwork, converted: attack_network.AttackNetwork) -> None:
    """A wrong network must never leave: compare on noise, of a size that has to be padded.

    In float64, because an instance normalisation of few pixels blows up the rounding of float32.
    """
    side, values = 2 * network.stride + 1, network.epsilons.values
    x = np.random.default_rng(0).random((2, network.channels, side, side))
    budgets = np.array([values[0], values[-1]])
    with chainer.no_backprop_mode(), chainer.using_config("train", False):
        expected = _in_float64(network)(x, budgets).array
    twin = copy.deepcopy(converted).double()
    found = twin(torch.from_numpy(x), torch.from_numpy(budgets)).numpy()
    difference = float(np.abs(found - expected).max())
    if not difference < _TOLERANCE:
        raise UsageError(
            f"the torch module differs from the network by {difference:.1e} on images in [0, 1]: "
            f"allowed is {_TOLERANCE}"
        )


def _in_float64(network: AttackNetwork) -> AttackNetwork:
    with chainer.using_config("dtype", np.dtype(np.float64)):
        twin = build(network.arch, network.epsilons, channels=network.channels, seed=0)
    forms, own = weights.arrays(twin), weights.arrays(network)
    weights.assign(twin, {name: own[name].astype(forms[name].dtype) for name in forms})
    return twin
