"""An attack package as a torch module, in this process or as a folder that needs torch alone."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import chainer
import numpy as np
import torch

from models import weights
from models.classifiers import Classifier
from models.generators import AttackNetwork, build
from models.hints import Hint
from models.package import load_package
from models.pytorch import attack_network
from models.pytorch.description import describe
from models.released import package_folder
from study.errors import UsageError

__all__ = ["convert", "export_torch", "load_torch"]

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
    converted = attack_network.AttackNetwork(*describe(network))
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
    description, tensors = describe(network)
    content = {"format": attack_network.FORMAT, "description": description, "tensors": tensors}
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    torch.save(content, fresh / "network.pt")
    shutil.copyfile(attack_network.__file__, fresh / "hubconf.py")
    shutil.copyfile(package_folder(package) / "CARD.md", fresh / "CARD.md")
    return fresh.rename(folder)


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
    hint = network.hint
    with chainer.using_config("dtype", np.dtype(np.float64)):
        hint = hint and _hint_in_float64(hint)
        twin = build(network.arch, network.epsilons, channels=network.channels, seed=0, hint=hint)
    forms, own = weights.arrays(twin), weights.arrays(network)
    weights.assign(twin, {name: own[name].astype(forms[name].dtype) for name in forms})
    return twin


def _hint_in_float64(hint: Hint) -> Hint:
    return replace(
        hint,
        classifier=_widened(hint.classifier),
        second=hint.second and _hint_in_float64(hint.second),
        beside=tuple(map(_hint_in_float64, hint.beside)),
    )


def _widened(classifier: Classifier) -> Classifier:
    twin = copy.deepcopy(classifier)
    for parameter in twin.params():
        parameter.array = parameter.array.astype(np.float64)
    # Not what normalises images: a classifier computes with that in single precision always.
    for link in (link for link in twin.links() if not isinstance(link, Classifier)):
        for name in link._persistent:
            value = getattr(link, name)
            if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                setattr(link, name, value.astype(np.float64))
    return twin
