"""A training loop between two updates, as arrays: what `objectives.training` hands over and takes back."""

from collections.abc import Mapping

import chainer
import numpy as np

from models import weights
from study.arrays import Array
from study.errors import DataError
from study.snapshots import State

__all__ = ["capture", "restore"]

_MODEL, _OPTIMIZER = "model/", "optimizer/"


def capture(model: chainer.Link, optimizer: chainer.Optimizer, loss: float) -> State:
    """Return a copy of the model and of what the optimiser remembers.

    Args:
        model: what is trained.
        optimizer: what trains it, set up; its rate is not kept: the schedule sets it before each update.
        loss: this rank's last.
    """
    arrays = _starting(_MODEL, weights.arrays(model)) | _starting(_OPTIMIZER, _memory(optimizer))
    return State({name: np.array(array) for name, array in arrays.items()}, {"loss": loss})


def restore(state: State, model: chainer.Link, optimizer: chainer.Optimizer) -> float:
    """Let the model and the optimiser be what they were, and return this rank's last loss.

    Raises:
        DataError: they have other arrays than were kept; the model is unchanged then.
    """
    found = {start: _without(start, state.arrays) for start in (_MODEL, _OPTIMIZER)}
    weights.assign(model, found[_MODEL], "snapshot's model")
    try:
        optimizer.serialize(chainer.serializers.NpzDeserializer(found[_OPTIMIZER]))
    except KeyError as error:
        raise DataError(f"snapshot lacks {error} of the optimiser") from None
    return float(state.facts["loss"])


def _memory(optimizer: chainer.Optimizer) -> dict[str, Array]:
    serializer = chainer.serializers.DictionarySerializer()
    optimizer.serialize(serializer)
    return {name: np.asarray(value) for name, value in serializer.target.items()}


def _starting(start: str, arrays: dict[str, Array]) -> dict[str, Array]:
    return {start + name: array for name, array in arrays.items()}


def _without(start: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {k.removeprefix(start): a for k, a in arrays.items() if k.startswith(start)}
