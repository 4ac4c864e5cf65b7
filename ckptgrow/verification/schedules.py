"""Schedules field by field, and the rates that they set, run again by torch's own classes.

A schedule whose step was not moved is the small one's, with one entry for every group of the grown optimizer. One whose
step was moved is built anew by its own class – from the arguments of the constructor that its state holds – over the
groups' initial rates, and run from its start to the new step; what that leaves in the groups and in the state is what
the grown checkpoint must hold. A schedule whose function lies in the script (LambdaLR) cannot be run: its rates stay.
"""

from __future__ import annotations

import bisect
import inspect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.optim import lr_scheduler, swa_utils

from ckptgrow.checkpoints.optimizer import OptimizerState
from ckptgrow.checkpoints.tensors import LazyTensor, whole
from ckptgrow.verification.history import resets
from ckptgrow.verification.pair import Pair
from ckptgrow.verification.trees import differences

Raw = Mapping[str, Any]
CLASSES: Mapping[frozenset[str], type[lr_scheduler.LRScheduler]] = {
    frozenset({"step_size", "gamma"}): lr_scheduler.StepLR,
    frozenset({"milestones", "gamma"}): lr_scheduler.MultiStepLR,
    frozenset({"factor", "total_iters"}): lr_scheduler.ConstantLR,
    frozenset({"start_factor", "end_factor", "total_iters"}): lr_scheduler.LinearLR,
    frozenset({"gamma"}): lr_scheduler.ExponentialLR,
    frozenset({"total_iters", "power"}): lr_scheduler.PolynomialLR,
    frozenset({"T_max", "eta_min"}): lr_scheduler.CosineAnnealingLR,
    frozenset({"T_0", "T_i", "T_mult", "eta_min", "T_cur"}): lr_scheduler.CosineAnnealingWarmRestarts,
}
OF_ALL = frozenset(
    {"base_lrs", "last_epoch", "verbose", "_step_count", "_is_initial", "_get_lr_called_within_step", "_last_lr"}
)
LISTS = ("base_lrs", "_last_lr", "max_lrs", "min_lrs", "lr_lambdas", "base_momentums", "max_momentums", "swa_lrs")
RATES = ("base_lrs", "_last_lr", "max_lrs", "min_lrs", "swa_lrs")
SAME = 1e-9  # relative, of rates: products in float64 in another order


def schedule_problems(pair: Pair) -> list[str]:
    """What differs from what the schedules must be."""
    old, new = pair.small.checkpoint.schedulers, pair.grown.checkpoint.schedulers
    if "schedule" in resets(pair):
        return [f"{len(new)} schedules, expected none after a growth without them"] if new else []
    if len(old) != len(new):
        return [f"{len(new)} schedules, expected {len(old)}"]
    problems: list[str] = []
    for index, (small, grown) in enumerate(zip(old, new, strict=True)):
        optimizer = _optimizer_of(pair, index, old)
        if optimizer is not None and optimizer >= len(pair.grown.optimizers):
            optimizer = None
        origins = None if optimizer is None else _origins(pair, optimizer)
        problems += _of_one(pair, index, small, grown, optimizer, origins)
    return problems


def moved_rates(pair: Pair, optimizer: int) -> list[Mapping[str, Any]] | None:
    """What the schedule sets in each of a grown optimizer's groups at the moved step; None where nothing can say it."""
    schedules = pair.grown.checkpoint.schedulers
    for index, raw in enumerate(schedules):
        if _optimizer_of(pair, index, pair.small.checkpoint.schedulers) == optimizer:
            return _replayed(raw, pair.grown.optimizers[optimizer], pair.grown.checkpoint.global_step or 0)[0]
    return None


def _of_one(
    pair: Pair, index: int, small: Raw, grown: Raw, optimizer: int | None, origins: Sequence[int] | None
) -> Iterator[str]:
    keys = (f"schedule {index}",)
    expected = dict(small)
    if origins is not None and optimizer is not None:
        expected = _expanded(pair, small, grown, optimizer, origins)
    if pair.has_moved and pair.grown.checkpoint.global_step is not None and optimizer is not None:
        _, state = _replayed(expected, pair.grown.optimizers[optimizer], pair.grown.checkpoint.global_step)
        if state is None:
            expected |= {key: grown[key] for key in ("_step_count",) if key in grown}
            expected |= {"last_epoch": pair.grown.checkpoint.global_step} if "last_epoch" in expected else {}
        else:
            expected |= {key: value for key, value in state.items() if key in expected}
    yield from differences(_rounded(expected), _rounded(grown), keys)


def _rounded(value: Any) -> Any:
    """Numbers to nine digits: rates are products whose order is free."""
    if isinstance(value, LazyTensor) and not value.shape:
        value = float(whole(value))
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict | Counter):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value


def _optimizer_of(pair: Pair, index: int, schedules: Sequence[Raw]) -> int | None:
    """Whose rates a schedule sets: the only optimizer's, that at its place, or the one with its base rates."""
    optimizers = pair.small.optimizers
    if len(optimizers) == 1:
        return 0
    if len(schedules) == len(optimizers):
        return index
    bases = [_number(one) for one in schedules[index].get("base_lrs", [])]
    fitting = [
        place
        for place, one in enumerate(optimizers)
        if bases == [_number(group.options.get("initial_lr", -1.0)) for group in one.groups]
    ]
    return fitting[0] if len(fitting) == 1 else None


def _origins(pair: Pair, optimizer: int) -> list[int] | None:
    """The small group behind each grown group."""
    if len(pair.grown.optimizers) <= optimizer:
        return None
    small, grown = pair.small.optimizers[optimizer], pair.grown.optimizers[optimizer]
    place = {name: index for index, group in enumerate(small.groups) for name in group.names}
    found = [next((place.get(pair.links[name].small.name) for name in group.names), None) for group in grown.groups]
    if len(small.groups) == len(grown.groups):
        return list(range(len(small.groups)))
    return None if None in found else [one for one in found if one is not None]


def _expanded(pair: Pair, small: Raw, grown: Raw, optimizer: int, origins: Sequence[int]) -> dict[str, Any]:
    """The small schedule with an entry for every grown group, rates in the ratio of the groups' own."""
    old, new = pair.small.optimizers[optimizer].groups, pair.grown.optimizers[optimizer].groups
    ratios = [_ratio(old[origin].options, group.options) for origin, group in zip(origins, new, strict=True)]
    found = dict(small)
    for key in LISTS:
        values = small.get(key)
        if isinstance(values, list) and len(values) == len(old):
            factors = ratios if key in RATES else [None] * len(ratios)
            found[key] = [
                values[origin] if factor is None or values[origin] is None else _number(values[origin]) * factor
                for origin, factor in zip(origins, factors, strict=True)
            ]
    if isinstance(small.get("_schedulers"), list):
        found["_schedulers"] = [_expanded(pair, one, grown, optimizer, origins) for one in small["_schedulers"]]
    return found


def _ratio(old: Mapping[str, Any], new: Mapping[str, Any]) -> float:
    for key in ("initial_lr", "swa_lr", "max_lr", "lr"):
        if old.get(key) and new.get(key) is not None:
            return _number(new[key]) / _number(old[key])
    return 1.0


def _replayed(
    raw: Raw, optimizer: OptimizerState, step: int
) -> tuple[list[Mapping[str, Any]] | None, dict[str, Any] | None]:
    """The groups' options that the schedule sets at `step`, and its state there; None for what cannot be run."""
    simulated = _like(optimizer)
    try:
        scheduler = _built(raw, simulated)
        if scheduler is None:
            return None, None
        simulated.step()
        for _ in range(step):
            scheduler.step()
    except (ValueError, TypeError, KeyError, IndexError):
        return None, None
    options: list[Mapping[str, Any]] = [
        {key: group[key] for key in ("lr", "betas", "momentum") if key in known.options}
        for group, known in zip(simulated.param_groups, optimizer.groups, strict=True)
    ]
    return (options if _is_known(raw, step) else None), (scheduler.state_dict() if _is_known(raw, step) else None)


def _built(raw: Raw, optimizer: torch.optim.Optimizer) -> Any:
    if "_schedulers" in raw:
        inner = [_built(one, optimizer) for one in raw["_schedulers"]]
        if None in inner:
            return None
        if "_milestones" in raw:
            return lr_scheduler.SequentialLR(optimizer, inner, milestones=list(raw["_milestones"]))
        return lr_scheduler.ChainedScheduler(inner, optimizer)
    own = frozenset(raw) - OF_ALL
    if own == frozenset({"lr_lambdas"}):
        return lr_scheduler.LambdaLR(optimizer, [lambda _: 1.0] * len(optimizer.param_groups))
    if "anneal_epochs" in own or "total_steps" in own or "step_ratio" in own:
        return _in_closed_form(raw, optimizer)
    kind = CLASSES.get(own)
    if kind is None:
        return None
    arguments = {key: raw[key] for key in inspect.signature(kind.__init__).parameters if key in own}
    if "milestones" in arguments:
        arguments["milestones"] = sorted(Counter(arguments["milestones"]).elements())
    return kind(optimizer, **arguments)


def _in_closed_form(raw: Raw, optimizer: torch.optim.Optimizer) -> Any:
    """OneCycleLR, CyclicLR and SWALR say their rates by the clock alone: their state set back to the start."""
    if "anneal_epochs" in raw:
        kind: Any = swa_utils.SWALR
    else:
        kind = lr_scheduler.OneCycleLR if "total_steps" in raw else lr_scheduler.CyclicLR
        if raw.get("_scale_fn_custom") is not None:
            return None
    scheduler = kind.__new__(kind)
    scheduler.optimizer = optimizer
    plain = {key: [_number(one) for one in value] if key in LISTS and value else value for key, value in raw.items()}
    scheduler.load_state_dict({**plain, "last_epoch": 0, "_step_count": 1})
    for group, rate in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
        group["lr"] = rate
    return scheduler


def _is_known(raw: Raw, step: int) -> bool:
    """Whether the rates at a step follow from the state alone."""
    if "_milestones" in raw:
        return _is_known(raw["_schedulers"][bisect.bisect_right(raw["_milestones"], step)], step)
    return "lr_lambdas" not in raw and all(_is_known(one, step) for one in raw.get("_schedulers", ()))


def _like(optimizer: OptimizerState) -> torch.optim.Optimizer:
    """An optimizer with the same groups at the schedule's start, each over a number of its own."""
    groups: list[dict[str, Any]] = []
    for group in optimizer.groups:
        known = group.options
        rates = (key for key in known if key.endswith(("lr", "momentum")) and known[key] is not None)
        options: dict[str, Any] = {key: _number(known[key]) for key in rates}
        options["lr"] = options.get("initial_lr", options.get("lr", 0.0))
        options.setdefault("momentum", 0.9)
        options["betas"] = tuple(_number(one) for one in known.get("betas", (0.9, 0.999)))[:2]
        groups.append({"params": [torch.zeros(1, requires_grad=True)], **options})
    has_betas = any("betas" in group.options for group in optimizer.groups)
    return torch.optim.Adam(groups) if has_betas else torch.optim.SGD(groups, momentum=0.9)


def _number(value: Any) -> float:
    return float(whole(value)) if isinstance(value, LazyTensor) else float(value)
