"""A schedule set to another step against torch's own scheduler that ran there from its start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from ckptgrow.errors import RequestError
from ckptgrow.growth.training.grown_schedulers import grown_scheduler, moved
from ckptgrow.growth.training.learning_rates import Origin
from ckptgrow.growth.training.step_functions import course
from ckptgrow.state.optimizer_state import OptimizerState, ParameterGroup

Make = Callable[[torch.optim.Optimizer], Any]


def warm_up_then(make: Make) -> Make:
    def both(optimizer: torch.optim.Optimizer) -> Any:
        warm_up = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4)
        return lr_scheduler.SequentialLR(optimizer, [warm_up, make(optimizer)], milestones=[4])

    return both


def three_in_a_row(optimizer: torch.optim.Optimizer) -> Any:
    parts: list[lr_scheduler.LRScheduler] = [
        lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4),
        lr_scheduler.ConstantLR(optimizer, 1.0, total_iters=3),
        lr_scheduler.CosineAnnealingLR(optimizer, 30),
    ]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[4, 9])


def chained(optimizer: torch.optim.Optimizer) -> Any:
    parts = [lr_scheduler.LinearLR(optimizer, 0.2, total_iters=6), lr_scheduler.ExponentialLR(optimizer, 0.97)]
    return lr_scheduler.ChainedScheduler(parts, optimizer)


SCHEDULERS: Mapping[str, Make] = {
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 7)),
    "LinearLR": lambda optimizer: lr_scheduler.LinearLR(optimizer, 0.1, total_iters=20),
    "LinearLR, decaying": lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=12),
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 15),
    "OneCycleLR": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, [0.1, 0.3], total_steps=60),
    "OneCycleLR, three phases": lambda optimizer: lr_scheduler.OneCycleLR(
        optimizer, 0.1, total_steps=60, three_phase=True, anneal_strategy="linear", div_factor=10.0
    ),
    "OneCycleLR, other momenta": lambda optimizer: lr_scheduler.OneCycleLR(
        optimizer, 0.1, total_steps=60, base_momentum=0.5, max_momentum=0.7, pct_start=0.25
    ),
    "OneCycleLR, fixed momentum": lambda optimizer: lr_scheduler.OneCycleLR(
        optimizer, 0.1, total_steps=60, cycle_momentum=False
    ),
    "StepLR": lambda optimizer: lr_scheduler.StepLR(optimizer, 5, 0.5),
    "MultiStepLR": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [3, 8, 8, 19], 0.5),
    "ExponentialLR": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.9),
    "PolynomialLR": lambda optimizer: lr_scheduler.PolynomialLR(optimizer, 50, 2.0),
    "ConstantLR": lambda optimizer: lr_scheduler.ConstantLR(optimizer, 0.5, 11),
    "CosineAnnealingWarmRestarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 6, 2),
    "CyclicLR": lambda optimizer: lr_scheduler.CyclicLR(optimizer, [0.01, 0.02], 0.1, 7),
    "CyclicLR, uneven": lambda optimizer: lr_scheduler.CyclicLR(
        optimizer, 0.01, 0.1, 7, 4, mode="exp_range", gamma=0.9, cycle_momentum=False
    ),
    "CyclicLR, triangular2": lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, 5, mode="triangular2"),
    "SequentialLR": warm_up_then(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 30)),
    "SequentialLR with LambdaLR": warm_up_then(
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    ),
    "SequentialLR of three": three_in_a_row,
    "ChainedScheduler": chained,
}
MOMENTA = [name for name in SCHEDULERS if "Cyc" in name]


def optimizer_with(ratios: tuple[float, ...] = (1.0, 2.0), kind: Any = torch.optim.Adam) -> torch.optim.Optimizer:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": 0.1 * ratio} for ratio in ratios]
    return kind(groups, lr=1.0, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))


def run(optimizer: torch.optim.Optimizer, scheduler: Any, steps: int) -> list[list[Any]]:
    """The groups' learning rates and momenta after each step."""
    optimizer.step()
    found: list[list[Any]] = []
    for _ in range(steps):
        scheduler.step()
        found.append(
            [(float(group["lr"]), group.get("betas", group.get("momentum"))) for group in optimizer.param_groups]
        )
    return found


def named(optimizer: torch.optim.Optimizer) -> OptimizerState:
    groups = tuple(
        ParameterGroup({key: value for key, value in group.items() if key != "params"}, (str(index),))
        for index, group in enumerate(optimizer.param_groups)
    )
    return OptimizerState(groups=groups, state={})


def resumed_with(make: Make, state: Any, groups: Any, kind: Any) -> tuple[torch.optim.Optimizer, Any]:
    """An optimizer and a scheduler of that class as a script would resume them."""
    optimizer = optimizer_with(kind=kind, ratios=(1.0,) * len(groups))
    scheduler = make(optimizer)
    for group, options in zip(optimizer.param_groups, groups, strict=True):
        group.update(options)
    scheduler.load_state_dict(state)
    return optimizer, scheduler


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
@pytest.mark.parametrize("name", SCHEDULERS)
@settings(max_examples=6, deadline=None)
@given(before=st.integers(0, 25), step=st.integers(0, 30))
def test_a_moved_schedule_goes_on_as_one_that_ran_there(name: str, kind: Any, before: int, step: int) -> None:
    make = SCHEDULERS[name]
    first = optimizer_with(kind=kind)
    scheduler = make(first)
    run(first, scheduler, before)
    declared = course("lambda") if "Lambda" in name else None
    scheduled = moved(scheduler.state_dict(), step, named(first), named=declared)
    groups = [group.options for group in scheduled.groups(named(first))]
    optimizer, resumed = resumed_with(make, scheduled.state, groups, kind)

    expected_optimizer = optimizer_with(kind=kind)
    expected_scheduler = make(expected_optimizer)
    run(expected_optimizer, expected_scheduler, step)
    if "Lambda" not in name:  # its function is in the script: the rate is right from the next step on
        for found, expected in zip(optimizer.param_groups, expected_optimizer.param_groups, strict=True):
            assert found["lr"] == pytest.approx(expected["lr"], rel=1e-12)
            assert found.get("betas", found.get("momentum")) == pytest.approx(
                expected.get("betas", expected.get("momentum")), rel=1e-12
            )
    assert resumed.state_dict().keys() == expected_scheduler.state_dict().keys()
    if "last_epoch" in resumed.state_dict():
        assert resumed.last_epoch == expected_scheduler.last_epoch == step
    found, expected = run(optimizer, resumed, 10), run(expected_optimizer, expected_scheduler, 10)
    for one, other in zip(found, expected, strict=True):
        for (rate, momentum), (expected_rate, expected_momentum) in zip(one, other, strict=True):
            assert rate == pytest.approx(expected_rate, rel=1e-9, abs=1e-15)
            assert momentum == pytest.approx(expected_momentum, rel=1e-12)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_groups_that_mup_splits_follow_the_old_rates_by_their_ratios(name: str) -> None:
    make, ratios = SCHEDULERS[name], (1.0, 0.5, 0.25)
    origins = [Origin(0, 1.0), Origin(0, 0.5), Origin(1, 0.25)]
    old = optimizer_with()
    scheduler = make(old)
    run(old, scheduler, 7)
    grown = grown_scheduler(scheduler.state_dict(), origins, len(old.param_groups))
    keys = ("lr", "initial_lr", "max_lr", "min_lr")
    groups = []
    for origin in origins:
        options = {key: value for key, value in old.param_groups[origin.group].items() if key != "params"}
        groups.append({key: value * origin.ratio if key in keys else value for key, value in options.items()})

    def for_three(optimizer: torch.optim.Optimizer) -> Any:
        # scripts give their own lists one entry a group; loading overwrites them
        if name == "OneCycleLR":
            return lr_scheduler.OneCycleLR(optimizer, [0.1] * 3, total_steps=60)
        return lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, 7) if name == "CyclicLR" else make(optimizer)

    optimizer, resumed = resumed_with(for_three, grown, groups, torch.optim.Adam)
    found, expected = run(optimizer, resumed, 10), run(old, scheduler, 10)
    for one, other in zip(found, expected, strict=True):
        for (rate, momentum), origin in zip(one, origins, strict=True):
            assert rate == pytest.approx(other[origin.group][0] * origin.ratio, rel=1e-9, abs=1e-15)
            assert momentum == pytest.approx(other[origin.group][1])
    bases = grown.get("base_lrs")
    assert bases is None or bases == [group.get("initial_lr") for group in groups] or "Cyclic" in name
    assert len(ratios) == len(groups)


@pytest.mark.parametrize("name", ["MultiStepLR", "OneCycleLR", "SequentialLR of three", "CosineAnnealingWarmRestarts"])
def test_schedules_survive_growth_of_a_file(name: str, tmp_path: Path) -> None:
    import ckptgrow
    from ckptgrow.growth.request import StateRequest
    from tests.helpers.gpt2 import perturbed_gpt2, token_batches, train
    from tests.helpers.lightning_files import save_lightning

    model = perturbed_gpt2()
    optimizer = torch.optim.AdamW(
        [{"params": list(model.parameters())[:2]}, {"params": list(model.parameters())[2:]}], lr=0.1
    )
    scheduler = SCHEDULERS[name](optimizer)
    train(model, optimizer, token_batches(1))
    run_only(scheduler, 6)
    source = save_lightning(tmp_path / "small.ckpt", model, [optimizer], [scheduler], global_step=6)
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0, request=StateRequest(step=2))
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    twin = torch.optim.AdamW([{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(2)], lr=0.1)
    expected = SCHEDULERS[name](twin)
    twin.step()
    run_only(expected, 2)
    groups = tree["optimizer_states"][0]["param_groups"]
    assert [group["lr"] for group in groups] == pytest.approx([group["lr"] for group in twin.param_groups], rel=1e-12)
    resumed_optimizer = torch.optim.AdamW([{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(2)], lr=0.1)
    resumed = SCHEDULERS[name](resumed_optimizer)
    for group, stored in zip(resumed_optimizer.param_groups, groups, strict=True):
        group.update({key: value for key, value in stored.items() if key != "params"})
    resumed.load_state_dict(tree["lr_schedulers"][0])
    found, wanted = run(resumed_optimizer, resumed, 10), run(twin, expected, 10)
    assert [rates for step in found for rates, _ in step] == pytest.approx(
        [rates for step in wanted for rates, _ in step], rel=1e-9
    )


def run_only(scheduler: Any, steps: int) -> None:
    for _ in range(steps):
        scheduler.step()


def test_a_schedule_that_follows_the_loss_stays_where_it_is_and_says_so() -> None:
    optimizer = optimizer_with()
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, factor=0.5, min_lr=[0.01, 0.02])
    for loss in (1.0, 2.0, 3.0, 4.0):
        scheduler.step(loss)
    assert optimizer.param_groups[0]["lr"] == 0.05
    scheduled = moved(scheduler.state_dict(), 1, named(optimizer))
    assert scheduled.state == scheduler.state_dict()
    assert "follows the loss" in scheduled.note
    grown = grown_scheduler(scheduler.state_dict(), [Origin(0, 1.0), Origin(0, 0.5), Origin(1, 0.25)], 2)
    assert grown["min_lrs"] == [0.01, 0.005, 0.005]
    assert grown["_last_lr"] == [0.05, 0.025, 0.025]


def test_a_floor_that_is_a_whole_number_stays_one_where_the_rate_stays() -> None:
    """Torch's own default is 0, and a resumed run has what the file has."""
    optimizer = optimizer_with()
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer)
    grown = grown_scheduler(scheduler.state_dict(), [Origin(0, 1.0), Origin(1, 1.0)], 2)
    assert [type(one) for one in grown["min_lrs"]] == [type(one) for one in scheduler.state_dict()["min_lrs"]]


def test_a_step_beyond_the_end_of_a_cycle_is_refused() -> None:
    optimizer = optimizer_with()
    scheduler = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)
    with pytest.raises(RequestError, match="steps is 20"):
        moved(scheduler.state_dict(), 21, named(optimizer))


def test_a_floor_for_all_groups_is_refused_where_each_would_need_its_own() -> None:
    optimizer = optimizer_with()
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 10, eta_min=1e-3)
    with pytest.raises(RequestError, match="eta_min"):
        grown_scheduler(scheduler.state_dict(), [Origin(0, 1.0), Origin(1, 0.5)], 2)


def test_tensor_learning_rates_are_scaled_and_moved_as_tensors() -> None:
    from ckptgrow.storage.tensors import InMemory, is_lazy, whole

    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=torch.tensor(0.1), capturable=True)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    state = {
        key: [InMemory(one) if isinstance(one, torch.Tensor) else one for one in value]
        if isinstance(value, list)
        else value
        for key, value in scheduler.state_dict().items()
    }
    grown = grown_scheduler(state, [Origin(0, 1.0), Origin(0, 0.5)], 1)
    assert [float(whole(one)) for one in grown["base_lrs"]] == pytest.approx([0.1, 0.05])
    options = {"lr": InMemory(torch.tensor(0.1)), "initial_lr": InMemory(torch.tensor(0.1)), "betas": (0.9, 0.999)}
    scheduled = moved(state, 2, OptimizerState(groups=(ParameterGroup(options, ("a",)),), state={}))
    (group,) = scheduled.groups(OptimizerState(groups=(ParameterGroup(options, ("a",)),), state={}))
    assert is_lazy(group.options["lr"])
    assert float(whole(group.options["lr"])) == pytest.approx(0.025)
