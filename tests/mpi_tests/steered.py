"""An objective that is commanded while it counts: rank 0 queues the commands of the setting itself."""

import time
from collections.abc import Mapping
from typing import Any

from study.objective import Objective, Report, Result
from study.search.studies import load_study
from study.search.trials import send
from study.space import Domain, Suggester
from study.steering import Command, steering_of
from study.world import World

ITERATIONS = 400


class Commanded(Objective):
    """Queues its own commands: those in the setting, by the trial's number."""

    def __init__(self, url: str = "", commands: Any = ()) -> None:
        self.url = url
        self.commands = commands

    @property
    def settings(self) -> dict[str, Any]:
        return {"url": self.url, "commands": self.commands}

    def suggest(self, trial: Suggester) -> dict[str, Any]:
        return {"which": trial.suggest_int("which", 0, 9)}

    def command(self, number: int) -> None:
        study = load_study(self.url, "s")
        for facts in self.commands[number]:
            send(study, number, Command(0, **facts))


class Steered(Commanded):
    """Counts updates and remembers the rate of each; 10 updates are an epoch."""

    @property
    def settable(self) -> Mapping[str, Domain]:
        return {"rate": Domain("rate", low=0.0, high=1.0)}

    def evaluate(self, spec: dict[str, Any], world: World, report: Report) -> Result:
        steering, rates = steering_of(report), []
        report(0, 0.0)
        for iteration in range(ITERATIONS):
            if iteration == 3 and world.rank == 0:
                self.command(spec["which"])
            if not steering.begin(world, iteration, iteration / 10):
                break
            rates.append(steering.values.get("rate", 0.5))
            time.sleep(0.005)
        everywhere = world.allgather(rates)
        changes = [i for i in range(1, len(rates)) if rates[i] != rates[i - 1]]
        return Result(
            float(len(rates)),
            {"changes": changes, "last": rates[-1], "same": everywhere == [rates] * world.size},
        )


class Reported(Commanded):
    """Begins no iterations: it reports, and nothing else."""

    def evaluate(self, spec: dict[str, Any], world: World, report: Report) -> float:
        report(0, 0.5)
        if world.rank == 0:
            self.command(spec["which"])
        time.sleep(1.1)
        report(1, logs={"loss": 1.0})
        report(2, 0.25)
        return 1.0
