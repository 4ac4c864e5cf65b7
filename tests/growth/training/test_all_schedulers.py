"""Every scheduler of torch, moved and split by `mup`, against one that ran in the grown groups from its start."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler, swa_utils
from transformers import get_scheduler

import ckptgrow
from ckptgrow.errors import CkptgrowError, RequestError
from ckptgrow.growth.request import StateRequest
from ckptgrow.growth.training.grown_schedulers import clock_at, grown_scheduler, moved
from ckptgrow.growth.training.learning_rates import LR_OPTIONS, Origin, times
from ckptgrow.growth.training.step_functions import NAMES, course
from ckptgrow.state.optimizer_state import OptimizerState, ParameterGroup
from ckptgrow.state.train_schedule import Schedule
from ckptgrow.storage.tensors import InMemory, is_lazy, whole
from tests.helpers.gpt2 import perturbed_gpt2, token_batches, train
from tests.helpers.lightning_files import save_lightning

# a sequence within one steps when it is built
pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")

Make = Callable[[torch.optim.Optimizer, Sequence[float]], Any]
BASES, ORIGINS = (0.1, 0.2), (Origin(0, 1.0), Origin(0, 0.5), Origin(1, 0.25))
TRAINING = Schedule(kind="cosine", warmup=5, total=40)  # the function of `ckptgrow train`, whose fields the state holds


def after(milestone: int, *makes: Make) -> Make:
    def all_of(o: torch.optim.Optimizer, r: Sequence[float]) -> Any:
        return lr_scheduler.SequentialLR(
            o, [make(o, r) for make in makes], [milestone * (1 + i) for i in range(len(makes) - 1)]
        )

    return all_of


def together(*makes: Make) -> Make:
    return lambda o, r: lr_scheduler.ChainedScheduler([make(o, r) for make in makes], o)


def linear(o: torch.optim.Optimizer, r: Sequence[float]) -> Any:
    return lr_scheduler.LinearLR(o, 0.1, total_iters=9)


def cosine(o: torch.optim.Optimizer, r: Sequence[float]) -> Any:
    return lr_scheduler.CosineAnnealingLR(o, 31)


def cycle(o: torch.optim.Optimizer, r: Sequence[float]) -> Any:
    return lr_scheduler.OneCycleLR(o, [0.3 * one for one in r], total_steps=80)


def waves(o: torch.optim.Optimizer, r: Sequence[float]) -> Any:
    return lr_scheduler.CyclicLR(o, [0.01 * one for one in r], [0.1 * one for one in r], 7, mode="triangular2")


def averaging(o: torch.optim.Optimizer, r: Sequence[float]) -> Any:
    return swa_utils.SWALR(o, [0.01 * one for one in r], anneal_epochs=9)  # pyright: ignore[reportArgumentType]


KNOWN: Mapping[str, Make] = {
    "LambdaLR": lambda o, r: lr_scheduler.LambdaLR(o, [TRAINING.copy() for _ in r]),
    "StepLR": lambda o, r: lr_scheduler.StepLR(o, 5, 0.5),
    "MultiStepLR": lambda o, r: lr_scheduler.MultiStepLR(o, [3, 8, 8, 19], 0.5),
    "ConstantLR": lambda o, r: lr_scheduler.ConstantLR(o, 0.5, 11),
    "LinearLR": linear,
    "LinearLR, decaying": lambda o, r: lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=12),
    "ExponentialLR": lambda o, r: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o, r: lr_scheduler.PolynomialLR(o, 50, 2.0),
    "CosineAnnealingLR": cosine,
    "CosineAnnealingWarmRestarts": lambda o, r: lr_scheduler.CosineAnnealingWarmRestarts(o, 6, 2),
    "CyclicLR": waves,
    "CyclicLR, fixed momentum": lambda o, r: lr_scheduler.CyclicLR(
        o, [0.01 * one for one in r], [0.1 * one for one in r], 7, 4, "exp_range", 0.9, cycle_momentum=False
    ),
    "OneCycleLR": cycle,
    "SWALR": averaging,
    "SWALR, linear": lambda o, r: swa_utils.SWALR(
        o,
        [0.01 * one for one in r],  # pyright: ignore[reportArgumentType]
        7,
        "linear",
    ),
    "SequentialLR": after(9, linear, cosine),
    "SequentialLR of three": after(8, linear, lambda o, r: lr_scheduler.ConstantLR(o, 1.0, 3), cosine),
    "SequentialLR to a known function": after(9, linear, lambda o, r: lr_scheduler.LambdaLR(o, [TRAINING.copy()] * 3)),
    "SequentialLR to a cycle": after(9, linear, cycle),
    "SequentialLR to waves": after(9, linear, waves),
    "SequentialLR to averaging": after(9, cosine, averaging),
    "SequentialLR within one": after(12, after(5, linear, cosine), lambda o, r: lr_scheduler.ExponentialLR(o, 0.9)),
    "ChainedScheduler": together(linear, lambda o, r: lr_scheduler.ExponentialLR(o, 0.97)),
    "ChainedScheduler of a sequence": together(after(6, linear, cosine), lambda o, r: lr_scheduler.StepLR(o, 4, 0.9)),
}
HIDDEN: Mapping[str, Make] = {
    "LambdaLR": lambda o, r: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "MultiplicativeLR": lambda o, r: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    "LambdaLR of transformers": lambda o, r: get_scheduler("linear", o, 5, 50),
    "SequentialLR to a function": after(1, linear, lambda o, r: lr_scheduler.LambdaLR(o, lambda step: 0.5)),
    "SequentialLR from a function": after(2, lambda o, r: lr_scheduler.MultiplicativeLR(o, lambda step: 0.5), linear),
    "ChainedScheduler with one": together(linear, lambda o, r: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9)),
}
OF_THE_LOSS = ("ReduceLROnPlateau",)


def optimizer_of(kind: str, bases: Sequence[float]) -> torch.optim.Optimizer:
    rates: list[Any] = [torch.tensor(base) if kind == "tensors" else base for base in bases]
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates]
    if kind == "SGD":
        return torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    return torch.optim.AdamW(groups, lr=rates[0], capturable=kind == "tensors")


def in_file(value: Any) -> Any:
    """As a checkpoint that is read has it."""
    if isinstance(value, torch.Tensor):
        return InMemory(value.clone())
    if isinstance(value, list):
        return [in_file(one) for one in value]
    return {key: in_file(one) for key, one in value.items()} if isinstance(value, dict) else value


def out_of_file(value: Any) -> Any:
    if isinstance(value, list):
        return [out_of_file(one) for one in value]
    if isinstance(value, dict):
        return {key: out_of_file(one) for key, one in value.items()}
    return whole(value).clone() if is_lazy(value) else value


def state_of(optimizer: torch.optim.Optimizer) -> OptimizerState:
    groups = [{key: in_file(one) for key, one in group.items() if key != "params"} for group in optimizer.param_groups]
    return OptimizerState(groups=tuple(ParameterGroup(group, (str(i),)) for i, group in enumerate(groups)), state={})


def as_mup_splits(state: OptimizerState) -> OptimizerState:
    groups = [
        ParameterGroup(
            {
                key: times(value, origin.ratio) if key in LR_OPTIONS else value
                for key, value in state.groups[origin.group].options.items()
            },
            (str(index),),
        )
        for index, origin in enumerate(ORIGINS)
    ]
    return OptimizerState(groups=tuple(groups), state={})


def course_of(optimizer: torch.optim.Optimizer, scheduler: Any, steps: int) -> list[list[float]]:
    """The groups' rates and momenta at the start and after each step."""
    optimizer.step()
    found: list[list[float]] = []
    for index in range(steps + 1):
        if index:
            scheduler.step()
        found.append([])
        for group in optimizer.param_groups:
            found[-1] += [float(group["lr"]), *group.get("betas", (group.get("momentum", 0.0),))]
    return found


@pytest.mark.parametrize("name", KNOWN)
@settings(max_examples=12, deadline=None)
@given(
    kind=st.sampled_from(["AdamW", "SGD", "tensors"]),
    rule=st.sampled_from(["keep", "mup"]),
    before=st.integers(0, 30),
    step=st.integers(0, 30),
)
def test_every_scheduler_goes_on_as_one_that_ran_in_the_grown_groups(
    name: str, kind: str, rule: str, before: int, step: int
) -> None:
    make, ratios = KNOWN[name], (1.0, 2.0, 1.0)
    origins = ORIGINS if rule == "mup" else tuple(Origin(index, 1.0) for index in range(3))
    bases = (*BASES, 0.3) if rule == "keep" else BASES
    optimizer = optimizer_of(kind, bases)
    if rule == "mup":
        scheduler = _for(2, name)(optimizer, (1.0, 2.0))
        ratios = (1.0, 0.5, 0.5)
    else:
        scheduler = make(optimizer, ratios)
    course_of(optimizer, scheduler, before)
    state = state_of(optimizer)
    raw = grown_scheduler(in_file(scheduler.state_dict()), origins, len(bases))
    state = as_mup_splits(state) if rule == "mup" else state
    scheduled = moved(raw, step, state)
    new_bases = [bases[origin.group] * origin.ratio for origin in origins]

    resumed_optimizer = optimizer_of(kind, new_bases)
    resumed = make(resumed_optimizer, ratios)
    for group, stored in zip(resumed_optimizer.param_groups, scheduled.groups(state), strict=True):
        group.update(out_of_file(dict(stored.options)))
    resumed.load_state_dict(out_of_file(scheduled.state))
    fresh_optimizer = optimizer_of(kind, new_bases)
    fresh = make(fresh_optimizer, ratios)
    course_of(fresh_optimizer, fresh, step)
    found, expected = (course_of(*one, 20) for one in ((resumed_optimizer, resumed), (fresh_optimizer, fresh)))
    rel, absolute = (1e-5, 1e-8) if kind == "tensors" else (1e-9, 1e-15)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=rel, abs=absolute)
    assert [float(rate) for rate in resumed.get_last_lr()] == pytest.approx(
        [float(rate) for rate in fresh.get_last_lr()], rel=rel, abs=absolute
    )


def _for(num_groups: int, name: str) -> Make:
    """The same scheduler for another number of groups."""
    if name == "LambdaLR":
        return lambda o, r: lr_scheduler.LambdaLR(o, [TRAINING.copy() for _ in range(num_groups)])
    if name == "SequentialLR to a known function":
        return after(9, linear, lambda o, r: lr_scheduler.LambdaLR(o, [TRAINING.copy()] * num_groups))
    return KNOWN[name]


def test_no_scheduler_of_torch_is_left_out() -> None:
    classes = {
        name
        for module in (lr_scheduler, swa_utils)
        for name, one in inspect.getmembers(module, inspect.isclass)
        if issubclass(one, lr_scheduler.LRScheduler) and not name.startswith("_") and name != "LRScheduler"
    }
    assert classes == {name.partition(" ")[0].removesuffix(",") for name in (*KNOWN, *HIDDEN, *OF_THE_LOSS)}


@pytest.mark.parametrize("name", HIDDEN)
def test_functions_that_nobody_told_are_refused(name: str) -> None:
    optimizer = optimizer_of("AdamW", BASES)
    scheduler = HIDDEN[name](optimizer, (1.0, 1.0))
    course_of(optimizer, scheduler, 12)
    with pytest.raises(RequestError, match=r'function is in your script.*schedule names.*step="keep" or reset'):
        moved(scheduler.state_dict(), 4, state_of(optimizer))


def test_a_function_whose_turn_has_not_come_hides_nothing() -> None:
    optimizer = optimizer_of("AdamW", BASES)
    make = after(9, linear, HIDDEN["LambdaLR"])
    scheduler = make(optimizer, ())
    course_of(optimizer, scheduler, 12)
    scheduled = moved(scheduler.state_dict(), 4, state_of(optimizer))
    fresh = optimizer_of("AdamW", BASES)
    expected = course_of(fresh, make(fresh, ()), 4)[-1]
    assert scheduled.options is not None
    assert [group["lr"] for group in scheduled.options] == pytest.approx([expected[0], expected[3]], rel=1e-12)
    with pytest.raises(RequestError, match="function is in your script"):
        moved(scheduler.state_dict(), 9, state_of(optimizer))


SAID = {
    "polynomial": "polynomial:warmup=5,total=50,power=2,lr_end=0.001",
    "constant": "constant",
    "constant_with_warmup": "constant_with_warmup:warmup=5",
    "inverse_sqrt": "inverse_sqrt:warmup=5,timescale=7",
    "cosine_with_min_lr": "cosine_with_min_lr:warmup=5,total=50,min_lr=0.01",
    "cosine_warmup_with_min_lr": "cosine_warmup_with_min_lr:warmup=5,total=50,min_lr_rate=0.1",
    "warmup_stable_decay": "warmup_stable_decay:warmup=5,num_stable_steps=20,num_decay_steps=25",
}


@pytest.mark.parametrize("name", NAMES)
def test_schedules_of_transformers_are_computed_where_they_are_named(name: str) -> None:
    text = SAID.get(name, f"{name}:warmup=5,total=50")
    options = dict(part.split("=") for part in text.partition(":")[2].split(",") if part)
    numbers = {
        key: int(value) if "steps" in key or key == "timescale" else float(value) for key, value in options.items()
    }
    warmup, total = (int(options[key]) if key in options else None for key in ("warmup", "total"))
    special = {key: value for key, value in numbers.items() if key not in ("warmup", "total")}

    def make() -> tuple[torch.optim.Optimizer, Any]:
        optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=0.1)
        return optimizer, get_scheduler(name, optimizer, warmup, total, special)

    optimizer, scheduler = make()
    course_of(optimizer, scheduler, 12)
    fresh, expected = make()
    rates = course_of(fresh, expected, 7)
    scheduled = moved(scheduler.state_dict(), 7, state_of(optimizer), named=course(text))
    assert scheduled.options is not None and not scheduled.note
    assert scheduled.options[0]["lr"] == pytest.approx(rates[-1][0], rel=1e-12)
    assert scheduled.state["last_epoch"] == 7
    if warmup:  # another warm-up gives another rate at the checkpoint's own step
        other = text.replace("warmup=5", "warmup=40")
        with pytest.raises(RequestError, match="at its own step its rate is"):
            moved(scheduler.state_dict(), 7, state_of(optimizer), named=course(other))


@pytest.mark.parametrize("text", ["cosin", "cosine:warmup", "cosine:steps=3", "linear:warmup=3", "linear:power=1"])
def test_names_that_say_nothing_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="schedule"):
        named = course(text)
        assert named is not None
        named.function(0.1)


@pytest.mark.parametrize(
    "raw",
    [
        {"last_batch_iteration": 12},  # DeepSpeed's WarmupLR, WarmupDecayLR, WarmupCosineLR, OneCycle, LRRangeTest
        {"warmup_epochs": 3, "max_epochs": 9, "base_lrs": [0.1, 0.2], "last_epoch": 12, "_last_lr": [0.1, 0.2]},
    ],
)
def test_schedulers_that_no_rule_knows_are_not_moved_nor_split(raw: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="no rule for a schedule of"):
        moved(raw, 4, state_of(optimizer_of("AdamW", BASES)))
    with pytest.raises(RequestError, match="no rule for a schedule of"):
        grown_scheduler(raw, ORIGINS, 2)
    assert grown_scheduler(raw, [Origin(0, 1.0), Origin(1, 1.0)], 2) == raw


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("CosineAnnealingWarmRestarts", {"T_0": 0}),
        ("SequentialLR", {"_milestones": []}),
        ("OneCycleLR", {"total_steps": 0}),
        ("CyclicLR", {"mode": "none"}),
        ("LinearLR", {"start_factor": -1.0}),
        ("SWALR", {"anneal_epochs": 1.5}),
    ],
)
def test_states_with_settings_that_are_none_are_refused_in_a_line(name: str, change: dict[str, Any]) -> None:
    optimizer = optimizer_of("AdamW", BASES)
    scheduler = _for(2, name)(optimizer, (1.0, 1.0))
    course_of(optimizer, scheduler, 5)
    with pytest.raises(RequestError, match=r"torch cannot build it|no rule for a schedule of"):
        moved({**scheduler.state_dict(), **change}, 3, state_of(optimizer))


def test_rates_that_something_else_set_are_refused() -> None:
    optimizer = optimizer_of("AdamW", BASES)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.9)
    course_of(optimizer, scheduler, 5)
    optimizer.param_groups[0]["lr"] *= 0.5
    scheduler.step()
    with pytest.raises(RequestError, match="something else sets it"):
        moved(scheduler.state_dict(), 3, state_of(optimizer))


@pytest.mark.parametrize(
    ("clock", "steps", "expected"),
    [(100, (100, 40), 40), (99, (100, 40), 40), (10, (1000, 500), 5), (400, (100, 41), 164), (10, (1000, 563), None)],
)
def test_clocks_that_tick_otherwise_than_the_run_keep_their_ratio(
    clock: int, steps: tuple[int, int], expected: int | None
) -> None:
    raw = {"last_epoch": clock, "base_lrs": [0.1]}
    if expected is None:
        with pytest.raises(RequestError, match="multiple of 100"):
            clock_at(raw, steps)
    else:
        assert clock_at(raw, steps) == expected


@pytest.mark.parametrize("operator", ["width", "depth"])
@pytest.mark.parametrize("name", ["SWALR", "OneCycleLR", "SequentialLR within one", "ChainedScheduler", "LambdaLR"])
def test_files_grown_and_moved_have_the_rates_of_a_fresh_run(name: str, operator: str, tmp_path: Path) -> None:
    model = perturbed_gpt2()
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=0.1)
    scheduler = _for(1, name)(optimizer, (1.0,))
    train(model, optimizer, token_batches(1))
    for _ in range(12):
        scheduler.step()
    source, target = save_lightning(tmp_path / "small.ckpt", model, [optimizer], [scheduler], 12), tmp_path / "grown"
    request = StateRequest(step=4, lr_rule="mup")
    if operator == "width":
        ckptgrow.width(source, target, noise=0, request=request)
    else:
        ckptgrow.depth(source, target, request=request)
    tree = torch.load(target, weights_only=True)
    groups = tree["optimizer_states"][0]["param_groups"]
    fresh = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=0.1)
    ((*_, last),) = [course_of(fresh, _for(1, name)(fresh, (1.0,)), 4)]
    ratios = {group["initial_lr"] / fresh.param_groups[0]["initial_lr"] for group in groups}
    assert ratios == ({1.0, 0.5} if operator == "width" else {1.0})
    for group in groups:
        ratio = group["initial_lr"] / fresh.param_groups[0]["initial_lr"]
        assert group["lr"] == pytest.approx(last[0] * ratio, rel=1e-12)
        assert tuple(group["betas"]) == pytest.approx(last[1:])
        assert "swa_lr" not in group or math.isclose(group["swa_lr"], 0.01 * ratio)


def test_a_step_is_refused_where_two_schedules_set_the_rates(tmp_path: Path) -> None:
    model = perturbed_gpt2()
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=0.1)
    both = [linear(optimizer, ()), averaging(optimizer, (1.0,))]
    train(model, optimizer, token_batches(1))
    source = save_lightning(tmp_path / "small.ckpt", model, [optimizer], both, 5)
    with pytest.raises(CkptgrowError, match="one of 2 that set the rates"):
        ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0, request=StateRequest(step=2))
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0)
