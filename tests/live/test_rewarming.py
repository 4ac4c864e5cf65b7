"""The rates rise again after a growth in memory, whatever the schedule: as the schedule alone says, times the rise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

import ckptgrow
from ckptgrow import CkptgrowError, Rewarming, StateRequest
from ckptgrow.live.in_place import become
from ckptgrow.state.train_schedule import Schedule
from tests.helpers.families import perturbed

STEPS, RISE, BEFORE = 12, 4, 5
SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "function": lambda one: lr_scheduler.LambdaLR(one, lambda step: 0.9**step),
    "cosine": lambda one: lr_scheduler.CosineAnnealingLR(one, 20, eta_min=0.0),
    "one cycle": lambda one: lr_scheduler.OneCycleLR(one, 3e-3, total_steps=30, cycle_momentum=False),
    "warm-up, then falling": lambda one: lr_scheduler.SequentialLR(
        one, [lr_scheduler.LinearLR(one, 0.1, total_iters=3), lr_scheduler.ExponentialLR(one, 0.8)], [3]
    ),
    "steps": lambda one: lr_scheduler.StepLR(one, 4),
}


def alone(schedule: Callable[[Any], Any]) -> list[float]:
    """The rates of a scheduler that no growth interrupts, by step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-3)
    scheduler = schedule(optimizer)
    found: list[float] = []
    for _ in range(BEFORE + STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """Makes a step with a gradient of 1, and tells by how much plain SGD moved: its learning rate in truth."""
    for one in model.parameters():
        one.grad = torch.ones_like(one)
    (first, *_) = model.parameters()
    before = first.detach().clone()
    optimizer.step()
    moved = (before - first.detach()).flatten()
    assert float(moved.max() - moved.min()) < 1e-12
    return float(moved[0])


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("in_place", [False, True], ids=["anew", "in place"])
def test_steps_are_as_long_as_the_schedule_says_times_the_rise(name: str, in_place: bool) -> None:
    model: Any = perturbed("llama").double()
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=2e-3)
    scheduler = SCHEDULES[name](optimizer)
    expected = alone(SCHEDULES[name])
    for number in range(BEFORE):
        assert step(model, optimizer) == pytest.approx(expected[number], abs=1e-12)
        scheduler.step()
    grown = ckptgrow.grow(model, optimizer, scheduler, width=2, request=StateRequest(rewarm=RISE))
    if in_place:
        rewarmings = become(model, [optimizer], [scheduler], grown)
    else:
        model, optimizer, scheduler, rewarmings = grown.model, grown.optimizer, grown.scheduler, grown.rewarmings
    for number in range(STEPS):
        rise = min(1.0, (number + 1) / RISE)
        assert rewarmings[0].factor == rise
        assert step(model, optimizer) == pytest.approx(expected[BEFORE + number] * rise, abs=1e-12)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected[BEFORE + number], rel=1e-12)
        scheduler.step()
    assert rewarmings[0].is_over


def test_the_rise_is_that_of_the_command() -> None:
    """ckptgrow's own trainer has it in its schedule's function."""
    trained = Schedule(kind="wsd", warmup=3, total=20, rewarm_start=BEFORE, rewarm_steps=RISE)
    plain = Schedule(kind="wsd", warmup=3, total=20)
    model = perturbed("llama").double()
    optimizer = torch.optim.SGD(model.parameters(), lr=2e-3)
    grown = ckptgrow.grow(model, optimizer, width=2, global_step=BEFORE, request=StateRequest(rewarm=RISE))
    scheduler = lr_scheduler.LambdaLR(grown.optimizer, lambda later: plain(BEFORE + later))
    for number in range(BEFORE, BEFORE + STEPS):
        assert step(grown.model, grown.optimizer) == pytest.approx(2e-3 * trained(number), abs=1e-12)
        scheduler.step()


def test_an_interrupted_rise_goes_on_and_a_second_growth_ends_it() -> None:
    weight = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    model, rate = torch.nn.ParameterList([weight]), torch.tensor(0.1, dtype=torch.float64)
    first = Rewarming(optimizer := torch.optim.SGD(model.parameters(), lr=0.1), 4)
    assert [step(model, optimizer) for _ in range(2)] == pytest.approx([0.025, 0.05])
    later = torch.optim.SGD(model.parameters(), lr=rate)
    again = Rewarming(later, 9)
    again.load_state_dict(first.state_dict())
    assert [step(model, later) for _ in range(3)] == pytest.approx([0.075, 0.1, 0.1])
    assert later.param_groups[0]["lr"] is rate and float(rate) == 0.1 and again.is_over
    Rewarming(optimizer, 2)
    assert step(model, optimizer) == pytest.approx(0.05) and first.is_over
    Rewarming(optimizer, 2).remove()
    assert step(model, optimizer) == pytest.approx(0.1)


def test_a_step_that_raises_leaves_no_lowered_rate() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    Rewarming(optimizer, 2)

    def fails() -> float:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        optimizer.step(fails)
    weight.grad = torch.ones(1)
    optimizer.step()
    assert float(weight.detach()) == pytest.approx(-0.05) and optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda one: Rewarming(one, 0), "rewarm=0: expected at least one step"),
        (lambda one: Rewarming(one, 3).load_state_dict({"step": 1}), "has step, expected steps and done"),
        (lambda one: one.param_groups[0].update(lr=None) or Rewarming(one, 3), "group 0 has no learning rate"),
    ],
)
def test_what_cannot_rise_is_told(made: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(CkptgrowError, match=said):
        made(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1))
