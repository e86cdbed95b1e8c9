"""Generators: networks that turn a clean image into a perturbation. One file each.

A file of this package that defines `GENERATOR` is a generator: nothing else needs to know its name.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from models.generators.epsilons import Epsilons
from models.generators.network import Arch, AttackNetwork, Generator, Normalize
from models.hints import Hint
from study.errors import UsageError
from study.objective import explain

__all__ = ["GENERATORS", "Arch", "AttackNetwork", "Epsilons", "Generator", "build", "parse_arch"]


def _discover() -> dict[str, Generator]:
    modules = (
        importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)
    )
    found = [m.GENERATOR for m in modules if hasattr(m, "GENERATOR")]
    return {generator.name: generator for generator in sorted(found, key=lambda g: g.order)}


GENERATORS: Mapping[str, Generator] = _discover()


def parse_arch(fields: Any) -> Arch:
    """Return the architecture that a mapping with a `name` describes, with that generator's defaults.

    Raises:
        UsageError: no generator has that name, or a field is unknown or out of range.
    """
    if isinstance(fields, Arch):
        return fields
    name = fields.get("name") if isinstance(fields, Mapping) else None
    if not isinstance(name, str) or name not in GENERATORS:
        raise UsageError(f"arch.name is {name!r}; allowed: {', '.join(GENERATORS)}")
    try:
        return GENERATORS[name].arch.model_validate(fields)
    except ValidationError as error:
        raise UsageError(f"arch.{explain(error)}") from None


def build(
    arch: Arch,
    epsilons: Epsilons,
    *,
    channels: int,
    seed: int,
    normalize: Normalize | None = None,
    hint: Hint | None = None,
) -> AttackNetwork:
    """Build an attack network.

    Args:
        arch: which generator, and its own parameters.
        epsilons: the budgets it is made for and how it treats them.
        channels: of the images, 1 or 3.
        seed: of the initial weights.
        normalize: makes a batch normalisation for a number of channels; None means of this process alone.
        hint: what the network is told about an image besides its pixels.

    Raises:
        UsageError: the hint's classifier takes images of another number of channels.
    """
    return AttackNetwork(GENERATORS[arch.name], arch, epsilons, channels, seed, normalize, hint)
