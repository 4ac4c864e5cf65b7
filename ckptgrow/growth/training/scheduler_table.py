"""The schedulers whose state holds everything but functions: one row for each, recognised by the keys of its state.

torch's own classes are built again from the state, on an optimizer with the run's groups, so that they can be run from
their start to any step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer, lr_scheduler, swa_utils

Raw = Mapping[str, Any]
Function = Callable[[int], float]
FunctionsOf = Callable[[Raw], list[Function]]
Build = Callable[[Optimizer, Raw, FunctionsOf], lr_scheduler.LRScheduler]

_KEYS_OF_ALL = frozenset(
    {"base_lrs", "last_epoch", "verbose", "_step_count", "_is_initial", "_get_lr_called_within_step", "_last_lr"}
)
_MOMENTA = frozenset({"use_beta1", "base_momentums", "max_momentums"})
_OF_GROUPS = ("initial_lr", "max_lr", "min_lr", "swa_lr", "base_momentum", "max_momentum")


def follows_loss(raw: Raw) -> bool:
    """Whether a scheduler sets its rate by the losses of the run (ReduceLROnPlateau, transformers' GreedyLR)."""
    return {"num_bad_epochs", "best", "last_epoch"} <= raw.keys()


def is_known(raw: Raw) -> bool:
    """Whether the table has a scheduler, and all that it wraps, with a milestone between each two of them."""
    inner = raw.get("_schedulers", ())
    has_milestones = "_milestones" not in raw or len(raw["_milestones"]) == len(inner) - 1
    return _build_of(raw) is not None and has_milestones and all(is_known(one) for one in inner)


def leaves(raw: Raw) -> list[Raw]:
    """The schedulers that wrap no others, in order."""
    inner = raw.get("_schedulers")
    return [raw] if inner is None else [leaf for one in inner for leaf in leaves(one)]


def clock_of(raw: Raw) -> int | None:
    """The step at which a scheduler is; None where it is unknown.

    A ChainedScheduler has the clock of its first part.
    """
    if "last_epoch" in raw:
        return int(raw["last_epoch"])
    inner = raw.get("_schedulers")
    return clock_of(inner[0]) if inner else None


def rebuilt(raw: Raw, optimizer: Optimizer, functions_of: FunctionsOf) -> lr_scheduler.LRScheduler:
    """A known scheduler at its start; `functions_of` gives a LambdaLR's functions, one for each group.

    Each is built with its own base rates, because a scheduler that was built later may have set those of the groups.
    """
    build = _build_of(raw)
    assert build is not None, "only states of known schedulers are built again"
    kept = [{key: group[key] for key in _OF_GROUPS if key in group} for group in optimizer.param_groups]
    for group, base in zip(optimizer.param_groups, raw.get("base_lrs", ()), strict=False):
        if "max_lrs" not in raw:  # CyclicLR's are its lower bounds
            group["initial_lr"] = base
    scheduler = build(optimizer, raw, functions_of)
    for group, values in zip(optimizer.param_groups, kept, strict=True):
        group.update(values)
    return scheduler


def _build_of(raw: Raw) -> Build | None:
    own = frozenset(raw) - _KEYS_OF_ALL
    return next((build for keys, build in _ROWS if keys == own - _MOMENTA), None)


def _all(optimizer: Optimizer, raw: Raw, functions_of: FunctionsOf) -> list[lr_scheduler.LRScheduler]:
    return [rebuilt(inner, optimizer, functions_of) for inner in raw["_schedulers"]]


def _sequential(optimizer: Optimizer, raw: Raw, functions_of: FunctionsOf) -> lr_scheduler.LRScheduler:
    inner = _all(optimizer, raw, functions_of)
    return lr_scheduler.SequentialLR(optimizer, inner, milestones=list(raw["_milestones"]))


def _chained(optimizer: Optimizer, raw: Raw, functions_of: FunctionsOf) -> lr_scheduler.LRScheduler:
    return lr_scheduler.ChainedScheduler(_all(optimizer, raw, functions_of), optimizer)


def _lambdas(optimizer: Optimizer, raw: Raw, functions_of: FunctionsOf) -> lr_scheduler.LRScheduler:
    return lr_scheduler.LambdaLR(optimizer, functions_of(raw))


def _averaging(optimizer: Optimizer, raw: Raw, functions_of: FunctionsOf) -> lr_scheduler.LRScheduler:
    """An SWALR: its last rates are read from the groups."""
    rates: Any = [group["swa_lr"] for group in optimizer.param_groups]
    return swa_utils.SWALR(optimizer, rates, raw["anneal_epochs"], raw["_anneal_strategy"])


def _one_cycle(optimizer: Optimizer, raw: Raw, functions_of: FunctionsOf) -> lr_scheduler.LRScheduler:
    """A OneCycleLR: its peaks and momenta are read from the groups, the place of the peak from its phases."""
    rise, total = raw["_schedule_phases"][0], int(raw["total_steps"])
    groups = [dict(group) for group in optimizer.param_groups]
    first = {key: float(groups[0][key]) for key in ("initial_lr", "max_lr", "min_lr")}
    momenta: dict[str, Any] = {
        key: [group[key] for group in groups] for key in ("base_momentum", "max_momentum") if raw["cycle_momentum"]
    }
    scheduler = lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[group["max_lr"] for group in groups],
        total_steps=total,
        pct_start=(float(rise["end_step"]) + 1) / total,
        anneal_strategy=raw.get("_anneal_func_type", "cos"),
        div_factor=first["max_lr"] / first["initial_lr"],
        final_div_factor=first["initial_lr"] / first["min_lr"],
        three_phase=len(raw["_schedule_phases"]) == 3,
        cycle_momentum=bool(raw["cycle_momentum"]),
        **momenta,
    )
    scheduler.__dict__["_schedule_phases"] = list(raw["_schedule_phases"])  # not through a rounded share
    return scheduler


def _cyclic(optimizer: Optimizer, raw: Raw, functions_of: FunctionsOf) -> lr_scheduler.LRScheduler:
    up = float(raw["total_size"]) * float(raw["step_ratio"])
    momenta = (
        {"base_momentum": raw["base_momentums"], "max_momentum": raw["max_momentums"]} if raw["cycle_momentum"] else {}
    )
    scheduler = lr_scheduler.CyclicLR(
        optimizer,
        base_lr=list(raw["base_lrs"]),
        max_lr=list(raw["max_lrs"]),
        step_size_up=up,  # pyright: ignore[reportArgumentType]  torch makes it a float anyway
        step_size_down=float(raw["total_size"]) - up,  # pyright: ignore[reportArgumentType]
        mode=raw["mode"],
        gamma=raw["gamma"],
        scale_mode=raw["scale_mode"],
        cycle_momentum=bool(raw["cycle_momentum"]),
        **momenta,
    )
    scheduler.__dict__.update(total_size=raw["total_size"], step_ratio=raw["step_ratio"])
    return scheduler


def _keys(names: str) -> frozenset[str]:
    return frozenset(names.split())


_ROWS: tuple[tuple[frozenset[str], Build], ...] = (
    (_keys("_schedulers _milestones"), _sequential),
    (_keys("_schedulers"), _chained),
    (_keys("lr_lambdas"), _lambdas),  # MultiplicativeLR has the very keys of LambdaLR
    (_keys("anneal_epochs _anneal_strategy"), _averaging),
    (
        _keys("start_factor end_factor total_iters"),
        lambda optimizer, raw, _: lr_scheduler.LinearLR(
            optimizer, raw["start_factor"], raw["end_factor"], raw["total_iters"]
        ),
    ),
    (
        _keys("T_0 T_i T_mult eta_min T_cur"),
        lambda optimizer, raw, _: lr_scheduler.CosineAnnealingWarmRestarts(
            optimizer, raw["T_0"], raw["T_mult"], raw["eta_min"]
        ),
    ),
    (
        _keys("T_max eta_min"),
        lambda optimizer, raw, _: lr_scheduler.CosineAnnealingLR(optimizer, raw["T_max"], raw["eta_min"]),
    ),
    (_keys("total_steps _schedule_phases _anneal_func_type cycle_momentum"), _one_cycle),
    (_keys("total_size step_ratio _scale_fn_custom mode gamma scale_mode max_lrs cycle_momentum"), _cyclic),
    (
        _keys("step_size gamma"),
        lambda optimizer, raw, _: lr_scheduler.StepLR(optimizer, raw["step_size"], raw["gamma"]),
    ),
    (
        _keys("milestones gamma"),
        lambda optimizer, raw, _: lr_scheduler.MultiStepLR(
            optimizer, sorted(Counter(raw["milestones"]).elements()), raw["gamma"]
        ),
    ),
    (
        _keys("power total_iters"),
        lambda optimizer, raw, _: lr_scheduler.PolynomialLR(optimizer, raw["total_iters"], raw["power"]),
    ),
    (
        _keys("factor total_iters"),
        lambda optimizer, raw, _: lr_scheduler.ConstantLR(optimizer, raw["factor"], raw["total_iters"]),
    ),
    (_keys("gamma"), lambda optimizer, raw, _: lr_scheduler.ExponentialLR(optimizer, raw["gamma"])),
)
