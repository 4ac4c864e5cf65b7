"""The torch schedulers whose state says everything: one row each, known by the keys of the state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer, lr_scheduler

Raw = Mapping[str, Any]
Build = Callable[[Optimizer, Raw], lr_scheduler.LRScheduler]

_KEYS_OF_ALL = frozenset(
    {"base_lrs", "last_epoch", "verbose", "_step_count", "_is_initial", "_get_lr_called_within_step", "_last_lr"}
)
_MOMENTA = frozenset({"use_beta1", "base_momentums", "max_momentums"})


def rebuilt(raw: Raw, optimizer: Optimizer) -> lr_scheduler.LRScheduler | None:
    """The scheduler of a state at its start; None for one that is no row. LambdaLR gets functions that are 1."""
    own = frozenset(raw) - _KEYS_OF_ALL
    build = next((build for keys, build in _ROWS if keys == own - _MOMENTA), None)
    return None if build is None else build(optimizer, raw)


def _all(optimizer: Optimizer, raw: Raw) -> list[lr_scheduler.LRScheduler] | None:
    inner = [rebuilt(one, optimizer) for one in raw["_schedulers"]]
    return None if None in inner else [one for one in inner if one is not None]


def _sequential(optimizer: Optimizer, raw: Raw) -> Any:
    inner = _all(optimizer, raw)
    return inner and lr_scheduler.SequentialLR(optimizer, inner, milestones=list(raw["_milestones"]))


def _chained(optimizer: Optimizer, raw: Raw) -> Any:
    inner = _all(optimizer, raw)
    return inner and lr_scheduler.ChainedScheduler(inner, optimizer)


def _one_cycle(optimizer: Optimizer, raw: Raw) -> lr_scheduler.LRScheduler:
    """Its peaks and momenta lie in the groups; its phases say where the peak is and which curve leads there."""
    rise, total = raw["_schedule_phases"][0], int(raw["total_steps"])
    groups = [dict(group) for group in optimizer.param_groups]
    first = groups[0]
    momenta: dict[str, Any] = {
        key: [group[key] for group in groups] for key in ("base_momentum", "max_momentum") if raw["cycle_momentum"]
    }
    scheduler = lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[group["max_lr"] for group in groups],
        total_steps=total,
        pct_start=(float(rise["end_step"]) + 1) / total,
        anneal_strategy=raw.get("_anneal_func_type", "cos"),
        div_factor=first["max_lr"] / first["lr"],
        final_div_factor=first["lr"] / first["min_lr"],
        three_phase=len(raw["_schedule_phases"]) == 3,
        cycle_momentum=bool(raw["cycle_momentum"]),
        **momenta,
    )
    scheduler.__dict__["_schedule_phases"] = list(raw["_schedule_phases"])  # not through a rounded share
    return scheduler


def _cyclic(optimizer: Optimizer, raw: Raw) -> Any:
    if raw["_scale_fn_custom"] is not None:
        return None
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
    (
        _keys("lr_lambdas"),
        lambda optimizer, raw: lr_scheduler.LambdaLR(optimizer, [lambda _: 1.0] * len(optimizer.param_groups)),
    ),
    (
        _keys("start_factor end_factor total_iters"),
        lambda optimizer, raw: lr_scheduler.LinearLR(
            optimizer, raw["start_factor"], raw["end_factor"], raw["total_iters"]
        ),
    ),
    (
        _keys("T_0 T_i T_mult eta_min T_cur"),
        lambda optimizer, raw: lr_scheduler.CosineAnnealingWarmRestarts(
            optimizer, raw["T_0"], raw["T_mult"], raw["eta_min"]
        ),
    ),
    (
        _keys("T_max eta_min"),
        lambda optimizer, raw: lr_scheduler.CosineAnnealingLR(optimizer, raw["T_max"], raw["eta_min"]),
    ),
    (_keys("total_steps _schedule_phases _anneal_func_type cycle_momentum"), _one_cycle),
    (
        _keys("total_size step_ratio _scale_fn_custom mode gamma scale_mode max_lrs cycle_momentum"),
        _cyclic,
    ),
    (
        _keys("step_size gamma"),
        lambda optimizer, raw: lr_scheduler.StepLR(optimizer, raw["step_size"], raw["gamma"]),
    ),
    (
        _keys("milestones gamma"),
        lambda optimizer, raw: lr_scheduler.MultiStepLR(
            optimizer, sorted(Counter(raw["milestones"]).elements()), raw["gamma"]
        ),
    ),
    (
        _keys("power total_iters"),
        lambda optimizer, raw: lr_scheduler.PolynomialLR(optimizer, raw["total_iters"], raw["power"]),
    ),
    (
        _keys("factor total_iters"),
        lambda optimizer, raw: lr_scheduler.ConstantLR(optimizer, raw["factor"], raw["total_iters"]),
    ),
    (_keys("gamma"), lambda optimizer, raw: lr_scheduler.ExponentialLR(optimizer, raw["gamma"])),
)
