"""Feature-wise linear modulation: features scaled and shifted by the budget.

Source: Perez et al. 2018, "FiLM: Visual Reasoning with a General Conditioning Layer", eq. 1 and 2.
"""

import chainer
import chainer.functions as F
import numpy as np
from numpy.typing import NDArray

from models.generators.epsilons import Epsilons

__all__ = ["FiLM"]

_WAVES = 4


class FiLM(chainer.Chain):  # type: ignore[misc]
    """y = relu((1 + G w(u)) x + B w(u)), with w_k(u) = cos(pi k u), k = 0..3.

    u in [0, 1] is where the budget epsilon / 255 lies between the smallest and the largest of the
    network's own, so every integer between them has a modulation of its own, and none is a mean of two
    others; one outside is served by the nearest end. G and B start at zero: features that are not
    negative pass unchanged.

    Args:
        features: number of feature channels.
        epsilons: the budgets of the network.
    """

    def __init__(self, features: int, epsilons: Epsilons) -> None:
        super().__init__()
        self._epsilons = epsilons
        with self.init_scope():
            self.scale = chainer.Parameter(0, (features, _WAVES))
            self.shift = chainer.Parameter(0, (features, _WAVES))

    def forward(self, x: chainer.Variable, epsilon: NDArray[np.integer]) -> chainer.Variable:
        """Modulate features (N, features, H, W) by integer budgets (N,) in 1/255 units."""
        waves = self.device.send(self._waves(epsilon).astype(x.dtype))
        scale, shift = (
            F.broadcast_to(F.matmul(waves, w, transb=True)[:, :, None, None], x.shape)
            for w in (self.scale, self.shift)
        )
        return F.relu(x + scale * x + shift)

    def _waves(self, epsilon: NDArray[np.integer]) -> NDArray[np.float64]:
        low, high = self._epsilons.values[0], self._epsilons.values[-1]
        place = (self._epsilons.within(np.asarray(epsilon)) - low) / max(high - low, 1)
        return np.cos(np.pi * place[:, None] * np.arange(_WAVES))
