"""Commands and when they are due, without a database or a trial."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.errors import TrialPruned, UsageError
from study.space import Domain
from study.steering import Command, Steering, check_values, steering_of
from study.world import World

SETTABLE = {"lr": Domain("lr", low=1e-6, high=10.0, log=True), "on": Domain("on", (True, False))}


class Asked:
    """Commands that arrive at given looks, and their answers."""

    def __init__(self, arrivals: dict[int, list[Command]]) -> None:
        self.arrivals = arrivals
        self.looks = -1
        self.answers: dict[int, tuple[bool, str]] = {}

    def poll(self) -> list[Command]:
        self.looks += 1
        return self.arrivals.get(self.looks, [])

    def answer(self, command: Command, text: str, *, done: bool) -> None:
        assert command.id not in self.answers, "answered twice"
        self.answers[command.id] = (done, text)


@given(
    due=st.integers(0, 30), arrives=st.integers(0, 30), unit=st.sampled_from(["iteration", "epoch"])
)
def test_a_command_is_carried_out_at_its_iteration_or_refused(
    due: int, arrives: int, unit: str
) -> None:
    command = Command(1, "set", {"lr": 0.5}, **{unit: due})
    asked = Asked({arrives: [command]})
    steering, world, seen = Steering(SETTABLE, asked), World(), []
    for iteration in range(40):
        assert steering.begin(world, iteration, float(iteration))
        seen.append("lr" in steering.values)
    if due >= arrives:
        assert seen == [i >= due for i in range(40)]
        assert asked.answers[1] == (True, f"from iteration {due} (epoch {due:.2f}) on")
    else:
        assert not any(seen)
        assert asked.answers[1] == (False, f"{unit} {due} had passed when the command arrived")


def test_a_stop_leaves_one_update_to_score() -> None:
    steering = Steering(answers=Asked({0: [Command(1, "stop")]}))
    assert [steering.begin(World(), i, 0.0) for i in range(2)] == [True, False]


def test_a_prune_is_answered_before_it_ends_the_trial() -> None:
    asked = Asked({1: [Command(1, "prune")]})
    steering = Steering(answers=asked)
    steering.begin(World(), 0, 0.0)
    with pytest.raises(
        TrialPruned, match=r"^pruned by command from iteration 1 \(epoch 0.50\) on$"
    ):
        steering.begin(World(), 1, 0.5)
    assert asked.answers[1][0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": 11.0}, r"^parameter 'lr' is 11.0; allowed: 1e-06 .. 10.0 log$"),
        ({"lr": "fast"}, r"^parameter 'lr' is 'fast'; allowed: 1e-06 .. 10.0 log$"),
        ({"on": 1}, r"^parameter 'on' is 1; allowed: True \| False$"),
        ({"width": 3}, r"^'width' cannot be set while a trial trains; allowed: lr, on$"),
    ],
)
def test_what_cannot_be_set_is_refused(values: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_values(SETTABLE, values)


def test_values_are_what_their_domains_hold() -> None:
    found = check_values(SETTABLE, {"lr": 1, "on": "true"})
    assert found == {"lr": 1.0, "on": True}
    assert isinstance(found["lr"], float)


def test_a_plain_function_that_reports_hears_no_commands() -> None:
    steering = steering_of(lambda *_: None)
    assert steering.begin(World(), 0, 0.0)
    assert steering.values == {}
