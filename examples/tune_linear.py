"""Tune something other than attacks: a linear classifier of scikit-learn, epoch by epoch.

    jigsaw create linear --objective examples/tune_linear.py:LinearObjective
    mpiexec -n 2 python -m study.worker --study linear --n-trials 10

Each rank trains on its share of the images; the averaged weights are scored (McDonald et al. 2010,
"Distributed Training Strategies for the Structured Perceptron"; one averaging per epoch).
"""

from typing import Any, ClassVar

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split

from study.objective import Objective, Report
from study.space import Suggester
from study.world import World


class LinearObjective(Objective):
    """Accuracy of a linear classifier of handwritten digits."""

    metric: ClassVar[str] = "accuracy"

    def suggest(self, trial: Suggester) -> dict[str, Any]:
        loss = trial.suggest_categorical("loss", ("hinge", "log_loss", "perceptron"))
        spec = {"loss": loss, "alpha": trial.suggest_float("alpha", 1e-6, 1e-1, log=True)}
        if loss != "perceptron":
            spec["eta0"] = trial.suggest_float("eta0", 1e-4, 1.0, log=True)
        return spec

    def evaluate(self, spec: dict[str, Any], world: World, report: Report) -> float:
        images, labels = load_digits(return_X_y=True)
        x, x_tune, y, y_tune = train_test_split(
            images / 16, labels, random_state=0, stratify=labels
        )
        mine = slice(world.rank, None, world.size)
        model = SGDClassifier(
            loss=spec["loss"], alpha=spec["alpha"], learning_rate="constant",
            eta0=spec.get("eta0", 1.0), random_state=0,
        )  # fmt: skip
        accuracy = 0.0
        for epoch in range(1, 9):
            model.partial_fit(x[mine], y[mine], classes=np.unique(labels))
            model.coef_ = world.sum(model.coef_) / world.size
            model.intercept_ = world.sum(model.intercept_) / world.size
            accuracy = float(model.score(x_tune, y_tune))
            report(epoch * len(x), accuracy)
        return accuracy
