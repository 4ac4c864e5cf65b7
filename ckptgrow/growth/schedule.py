"""Schedulers after growth: one entry a new parameter group, and the schedule's clock at another step.

Two clocks are kept apart: the schedule step (learning rate, bias correction), which may be moved, and the data
position, which never is.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import lr_scheduler

from ckptgrow.checkpoints.optimizer import OptimizerState
from ckptgrow.errors import RequestError
from ckptgrow.growth.rates import LR_OPTIONS, Origin

Raw = Mapping[str, Any]

SCALED_LISTS = ("base_lrs", "_last_lr", "max_lrs", "min_lrs")
CARRIED_LISTS = ("lr_lambdas",)


@dataclass(frozen=True)
class Scheduled:
    """A scheduler's grown state, the learning rates at its step, and whether those could be computed."""

    state: dict[str, Any]
    rates: list[float] | None


def grown_scheduler(raw: Raw, origins: Sequence[Origin], where: str) -> dict[str, Any]:
    """A scheduler's state with one entry a new group.

    Raises RequestError where groups would need different values of a setting that the scheduler has but once.
    """
    ratios = {origin.ratio for origin in origins}
    if raw.get("eta_min") and ratios != {1.0}:
        raise RequestError(
            f"{where}: eta_min {raw['eta_min']} is one for all groups, but --lr-rule mup scales each; expected "
            "eta_min 0; use --lr-rule keep"
        )
    num_groups = 1 + max(origin.group for origin in origins)
    grown = dict(raw)
    for key in (*SCALED_LISTS, *CARRIED_LISTS):
        values = raw.get(key)
        if isinstance(values, list) and len(values) >= num_groups:
            grown[key] = [
                values[origin.group] * origin.ratio if key in SCALED_LISTS else values[origin.group]
                for origin in origins
            ]
    if isinstance(raw.get("_schedulers"), list):
        grown["_schedulers"] = [grown_scheduler(inner, origins, where) for inner in raw["_schedulers"]]
    return grown


def moved(raw: Raw, step: int, optimizer: OptimizerState) -> Scheduled:
    """A scheduler with its clock at `step`.

    Where the state says everything, torch's own scheduler is run from its start, so that recursive ones (linear,
    cosine, exponential) go on from the right learning rate. LambdaLR keeps its function in the user's script: its clock
    moves, and its learning rate is right from its first step on.
    """
    if not _is_replayable(raw):
        return Scheduled(_at(raw, step), None)
    simulated = _optimizer_like(optimizer)
    scheduler = _replayed(raw, simulated)
    simulated.step()
    for _ in range(step):
        scheduler.step()
    rates = [float(group["lr"]) for group in simulated.param_groups]
    return Scheduled({**raw, **scheduler.state_dict()}, rates)


def _at(raw: Raw, step: int) -> dict[str, Any]:
    state = dict(raw)
    if "last_epoch" in raw:
        state["last_epoch"] = step
    if "_step_count" in raw:
        state["_step_count"] = int(raw["_step_count"]) + step - int(raw["last_epoch"])
    if isinstance(raw.get("_schedulers"), list):
        state["_schedulers"] = _inner_at(raw, step)
    return state


def _inner_at(raw: Raw, step: int) -> list[dict[str, Any]]:
    """SequentialLR's schedulers: the active one counts from its milestone, those before it have run to their end."""
    starts: list[int] = [0, *raw.get("_milestones", [])]
    if len(starts) == 1:
        return [_at(inner, step) for inner in raw["_schedulers"]]
    active = bisect.bisect_right(starts, step) - 1
    steps = [
        step - start if index == active else starts[index + 1] - start - 1 if index < active else 0
        for index, start in enumerate(starts)
    ]
    return [_at(inner, inner_step) for inner, inner_step in zip(raw["_schedulers"], steps, strict=True)]


def _is_replayable(raw: Raw) -> bool:
    if "_milestones" in raw:
        return all(_is_replayable(inner) for inner in raw["_schedulers"])
    return _constructor(raw) is not None


def _optimizer_like(optimizer: OptimizerState) -> torch.optim.Optimizer:
    """An optimizer with the same groups' learning rates, at the schedule's start."""
    groups: list[dict[str, Any]] = []
    for group in optimizer.groups:
        options = {key: float(group.options[key]) for key in LR_OPTIONS if key in group.options}
        options["lr"] = options.pop("initial_lr", options["lr"])
        groups.append({"params": [torch.zeros(1, requires_grad=True)], **options})
    return torch.optim.SGD(groups, lr=1.0, momentum=0.9)


def _replayed(raw: Raw, optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    if "_milestones" in raw:
        inner = [_replayed(one, optimizer) for one in raw["_schedulers"]]
        return lr_scheduler.SequentialLR(optimizer, inner, milestones=list(raw["_milestones"]))
    construct = _constructor(raw)
    assert construct is not None
    return construct(optimizer, raw)


def _constructor(raw: Raw) -> _Build | None:
    """The torch scheduler that a state belongs to, known by its keys; None for one that its state does not define."""
    own = frozenset(raw) - _KEYS_OF_ALL
    return next((build for required, build in _SIGNATURES if own == required), None)


_KEYS_OF_ALL = frozenset(
    {"base_lrs", "last_epoch", "verbose", "_step_count", "_is_initial", "_get_lr_called_within_step", "_last_lr"}
)
_Build = Callable[[torch.optim.Optimizer, Raw], lr_scheduler.LRScheduler]
_SIGNATURES: tuple[tuple[frozenset[str], _Build], ...] = (
    (
        frozenset({"start_factor", "end_factor", "total_iters"}),
        lambda optimizer, raw: lr_scheduler.LinearLR(
            optimizer, raw["start_factor"], raw["end_factor"], raw["total_iters"]
        ),
    ),
    (
        frozenset({"T_0", "T_i", "T_mult", "eta_min", "T_cur"}),
        lambda optimizer, raw: lr_scheduler.CosineAnnealingWarmRestarts(
            optimizer, raw["T_0"], raw["T_mult"], raw["eta_min"]
        ),
    ),
    (
        frozenset({"T_max", "eta_min"}),
        lambda optimizer, raw: lr_scheduler.CosineAnnealingLR(optimizer, raw["T_max"], raw["eta_min"]),
    ),
    (
        frozenset({"total_steps", "_schedule_phases", "_anneal_func_type", "cycle_momentum", "use_beta1"}),
        lambda optimizer, raw: _one_cycle(optimizer, raw),  # noqa: PLW0108  it is defined below
    ),
    (
        frozenset({"step_size", "gamma"}),
        lambda optimizer, raw: lr_scheduler.StepLR(optimizer, raw["step_size"], raw["gamma"]),
    ),
    (
        frozenset({"milestones", "gamma"}),
        lambda optimizer, raw: lr_scheduler.MultiStepLR(optimizer, sorted(raw["milestones"].elements()), raw["gamma"]),
    ),
    (
        frozenset({"power", "total_iters"}),
        lambda optimizer, raw: lr_scheduler.PolynomialLR(optimizer, raw["total_iters"], raw["power"]),
    ),
    (
        frozenset({"factor", "total_iters"}),
        lambda optimizer, raw: lr_scheduler.ConstantLR(optimizer, raw["factor"], raw["total_iters"]),
    ),
    (
        frozenset({"gamma"}),
        lambda optimizer, raw: lr_scheduler.ExponentialLR(optimizer, raw["gamma"]),
    ),
)


def _one_cycle(optimizer: torch.optim.Optimizer, raw: Raw) -> lr_scheduler.OneCycleLR:
    """OneCycleLR keeps its peaks in the groups; its phases say where the peak lies and which curve leads there."""
    rise, total = raw["_schedule_phases"][0], int(raw["total_steps"])
    first = optimizer.param_groups[0]
    return lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[group["max_lr"] for group in optimizer.param_groups],
        total_steps=total,
        pct_start=(float(rise["end_step"]) + 1) / total,
        anneal_strategy=raw.get("_anneal_func_type", "cos"),
        div_factor=first["max_lr"] / raw["base_lrs"][0],
        final_div_factor=raw["base_lrs"][0] / first["min_lr"],
        three_phase=len(raw["_schedule_phases"]) == 3,
    )
