"""A small checkpoint's schedulers at another step, by torch's own classes run from their start.

A state belongs to the first class whose own state has the same keys. The arguments that the class needs stand in the
state, or in the groups whose options it sets.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer, lr_scheduler
from torch.optim.swa_utils import SWALR

from ckptgrow.state.optimizer_state import OptimizerState
from ckptgrow.state.train_schedule import Schedule
from ckptgrow.storage.tensors import is_lazy, whole

Raw = Mapping[str, Any]
SET = ("lr", "betas", "momentum")  # options that a scheduler sets
# keys that not every version of torch writes, and those of momenta, which not every scheduler cycles
OPEN_KEYS = {
    *("verbose", "_is_initial", "_get_lr_called_within_step", "_last_lr"),
    *("use_beta1", "base_momentums", "max_momentums"),
}
STARTS = ("initial_lr", "max_lr", "min_lr", "swa_lr", "base_momentum", "max_momentum")  # what groups remember
Function = Callable[[int], float]


@dataclass(frozen=True)
class Replay:
    """A scheduler's state at a step, and the options that it sets, one mapping for each group.

    `options` is None where they depend on a function that no state holds.
    """

    state: dict[str, Any]
    options: tuple[Raw, ...] | None


def replayed(raw: Raw, optimizer: OptimizerState, step: int, named: Function | None) -> Replay | None:
    """The scheduler at a step of its own clock; None where torch has no such class, or the step is beyond its end.

    `named`: the function that the user named for a LambdaLR. Where neither the user nor the state has it, the scheduler
    is run with two different functions in its place. Whatever differs between the two runs depends on the function, and
    stays as it was.
    """
    stand_ins: list[Function] = [named] if named else [lambda _: 1.0, lambda _: 0.5]
    runs = [_run(raw, optimizer, step, function) for function in stand_ins]
    found = [run for run in runs if run is not None]
    if len(found) < len(runs):
        return None
    states, options = zip(*found, strict=True)
    is_told = all(one == options[0] for one in options)
    return Replay(_kept(raw, states), options[0] if is_told else None)


def _run(
    raw: Raw, optimizer: OptimizerState, step: int, function: Function
) -> tuple[dict[str, Any], tuple[Raw, ...]] | None:
    """The state and the options after `step` steps from the start, with `function` where a LambdaLR's is unknown."""
    simulated = _optimizer_like(optimizer, raw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        scheduler = _built(_opened(raw), simulated, function)
        if scheduler is None:
            return None
        simulated.step()
        try:
            for _ in range(step):
                scheduler.step()
        except ValueError:
            return None
    options = ({key: group[key] for key in SET if key in group} for group in simulated.param_groups)
    return copy.deepcopy(scheduler.state_dict()), tuple(options)


def _functions_of(raw: Raw, num_groups: int, function: Function) -> list[Function]:
    """The functions of a LambdaLR: those that training with ckptgrow stores, else `function` for each group."""
    saved = raw["lr_lambdas"]
    if all(isinstance(one, dict) and one.keys() == Schedule.__dataclass_fields__.keys() for one in saved):
        return [Schedule(**one) for one in saved]
    return [function] * num_groups


def _built(raw: Raw, optimizer: Optimizer, function: Function) -> lr_scheduler.LRScheduler | None:
    """A scheduler at its start, of the first class whose state has the same keys; None where there is none."""
    start = [{key: group[key] for key in (*STARTS, *SET) if key in group} for group in optimizer.param_groups]
    for needed, build in _CLASSES:
        if not needed <= raw.keys():
            continue
        for group, values in zip(optimizer.param_groups, start, strict=True):
            group.update(values)
        _set_bases(optimizer, raw)
        remembered = [{key: group[key] for key in STARTS if key in group} for group in optimizer.param_groups]
        scheduler = build(raw, optimizer, function)
        for group, values, before in zip(optimizer.param_groups, remembered, start, strict=True):
            group.update({**values, **{key: before[key] for key in STARTS if key in before}})
        if scheduler is not None and not (scheduler.state_dict().keys() ^ raw.keys()) - OPEN_KEYS:
            return scheduler
    return None


def _set_bases(optimizer: Optimizer, raw: Raw) -> None:
    """Sets the groups' initial rates to the scheduler's base rates; not those of CyclicLR, which are lower bounds."""
    if "max_lrs" not in raw:
        for group, base in zip(optimizer.param_groups, raw.get("base_lrs", ()), strict=False):
            group["initial_lr"] = base


def _nested(raw: Raw, optimizer: Optimizer, function: Function) -> list[lr_scheduler.LRScheduler] | None:
    inner = [_built(one, optimizer, function) for one in raw["_schedulers"]]
    return None if None in inner else [one for one in inner if one is not None]


def _sequence(raw: Raw, optimizer: Optimizer, function: Function) -> Any:
    inner = _nested(raw, optimizer, function)
    return inner and lr_scheduler.SequentialLR(optimizer, inner, list(raw["_milestones"]))


def _chain(raw: Raw, optimizer: Optimizer, function: Function) -> Any:
    inner = _nested(raw, optimizer, function)
    return inner and lr_scheduler.ChainedScheduler(inner, optimizer)


def _one_cycle(raw: Raw, optimizer: Optimizer, function: Function) -> Any:
    """A OneCycleLR: its rates and momenta are read from the groups, its phases from the state."""
    groups: Sequence[dict[str, Any]] = [dict(group) for group in optimizer.param_groups]
    first = groups[0]
    momenta: dict[str, Any] = {}
    if raw["cycle_momentum"]:
        momenta = {key: [group[key] for group in groups] for key in ("base_momentum", "max_momentum")}
    scheduler = lr_scheduler.OneCycleLR(
        optimizer,
        [float(group["max_lr"]) for group in groups],
        total_steps=raw["total_steps"],
        anneal_strategy=raw["_anneal_func_type"],
        div_factor=float(first["max_lr"]) / float(first["initial_lr"]),
        final_div_factor=float(first["initial_lr"]) / float(first["min_lr"]),
        three_phase=len(raw["_schedule_phases"]) == 3,
        cycle_momentum=raw["cycle_momentum"],
        **momenta,
    )
    scheduler.load_state_dict({"_schedule_phases": raw["_schedule_phases"]})
    return scheduler


def _cyclic(raw: Raw, optimizer: Optimizer, function: Function) -> Any:
    more: dict[str, Any] = {}
    if raw["cycle_momentum"]:
        more = {"base_momentum": raw["base_momentums"], "max_momentum": raw["max_momentums"]}
    if raw["_scale_fn_custom"] is not None:
        more["scale_fn"] = function
    scheduler = lr_scheduler.CyclicLR(
        optimizer,
        list(raw["base_lrs"]),
        list(raw["max_lrs"]),
        mode=raw["mode"],
        gamma=raw["gamma"],
        scale_mode=raw["scale_mode"],
        cycle_momentum=raw["cycle_momentum"],
        **more,
    )
    sizes = {"total_size": raw["total_size"], "step_ratio": raw["step_ratio"], "_scale_fn_custom": None}
    scheduler.load_state_dict(sizes)
    return scheduler


def _averaging(raw: Raw, optimizer: Optimizer, function: Function) -> Any:
    rates: Any = [float(group["swa_lr"]) for group in optimizer.param_groups]
    return SWALR(optimizer, rates, raw["anneal_epochs"], raw["_anneal_strategy"])


def _of(kind: Any, *names: str) -> tuple[frozenset[str], Callable[..., Any]]:
    """A row of `_CLASSES` for a class whose arguments are fields of its state."""
    return frozenset(names), lambda raw, optimizer, _: kind(optimizer, **{name: raw[name] for name in names})


_CLASSES: tuple[tuple[frozenset[str], Callable[..., Any]], ...] = (
    (frozenset({"_schedulers", "_milestones"}), _sequence),
    (frozenset({"_schedulers"}), _chain),
    (
        frozenset({"lr_lambdas"}),
        lambda raw, optimizer, function: lr_scheduler.LambdaLR(
            optimizer, _functions_of(raw, len(optimizer.param_groups), function)
        ),
    ),
    (frozenset({"_schedule_phases"}), _one_cycle),
    (frozenset({"step_ratio", "max_lrs"}), _cyclic),
    (frozenset({"anneal_epochs"}), _averaging),
    _of(lr_scheduler.LinearLR, "start_factor", "end_factor", "total_iters"),
    _of(lr_scheduler.CosineAnnealingWarmRestarts, "T_0", "T_mult", "eta_min"),
    _of(lr_scheduler.CosineAnnealingLR, "T_max", "eta_min"),
    _of(lr_scheduler.StepLR, "step_size", "gamma"),
    (
        frozenset({"milestones", "gamma"}),
        lambda raw, optimizer, _: lr_scheduler.MultiStepLR(
            optimizer, sorted(Counter(raw["milestones"]).elements()), raw["gamma"]
        ),
    ),
    _of(lr_scheduler.PolynomialLR, "total_iters", "power"),
    _of(lr_scheduler.ConstantLR, "factor", "total_iters"),
    _of(lr_scheduler.ExponentialLR, "gamma"),
)


def _kept(raw: Raw, runs: Sequence[Raw]) -> dict[str, Any]:
    """The state after the runs; functions, which torch does not store, and all that depends on them stay the same."""
    kept = dict(raw)
    for key in raw.keys() & runs[0].keys() - {"lr_lambdas", "_scale_fn_custom", "_schedulers"}:
        if all(run[key] == runs[0][key] for run in runs):
            kept[key] = runs[0][key]
    if "_schedulers" in raw:
        inner = zip(raw["_schedulers"], *(run["_schedulers"] for run in runs), strict=True)
        kept["_schedulers"] = [_kept(first, others) for first, *others in inner]
    return kept


def _optimizer_like(optimizer: OptimizerState, raw: Raw) -> Optimizer:
    """An optimizer whose groups have the rates of the schedule's start.

    Rates that are tensors stay tensors, because these are rounded at every step.
    """
    groups: list[dict[str, Any]] = []
    bases = next(_bases(raw), None)
    for index, group in enumerate(optimizer.groups):
        options = {key: _opened(value) for key, value in group.options.items() if key in (*STARTS, *SET)}
        options = {key: value for key, value in options.items() if value is not None}
        start = float(options.get("initial_lr", options.get("lr", 0.0)) if bases is None else bases[index])
        is_tensor = isinstance(options.get("lr"), torch.Tensor)
        options["lr"] = torch.full_like(options["lr"], start) if is_tensor else start
        groups.append({"params": [torch.zeros(1, requires_grad=True)], **options})
    has_betas = any("betas" in group for group in groups)
    return torch.optim.Adam(groups) if has_betas else torch.optim.SGD(groups, momentum=0.9)


def _bases(raw: Raw) -> Iterator[Sequence[Any]]:
    """The base rates of the schedulers that wrap no others, in order."""
    for inner in raw.get("_schedulers", ()):
        yield from _bases(inner)
    if "_schedulers" not in raw and "base_lrs" in raw and "max_lrs" not in raw:
        yield [float(whole(one)) if is_lazy(one) else one for one in raw["base_lrs"]]


def _opened(value: Any) -> Any:
    """A tree of values with its lazy tensors read into memory."""
    if is_lazy(value):
        return whole(value).clone()
    if isinstance(value, dict):
        return {key: _opened(one) for key, one in value.items()}
    return [_opened(one) for one in value] if isinstance(value, list) else value
