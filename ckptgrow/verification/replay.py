"""A small checkpoint's schedulers at another step, by torch's own classes run from their start.

Which class a state belongs to is found by trying: the one whose own state has the same keys. What it needs to be built
stands in the state, or in the groups that it sets.
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

from ckptgrow.checkpoints.course import Schedule
from ckptgrow.checkpoints.optimizer import OptimizerState
from ckptgrow.checkpoints.tensors import LazyTensor, whole

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
    """A scheduler's state at a step, and the options that it sets, one mapping a group; none where a function that is
    in nobody's state has a say.
    """

    state: dict[str, Any]
    options: tuple[Raw, ...] | None


def replayed(raw: Raw, optimizer: OptimizerState, step: int, named: Function | None) -> Replay | None:
    """The scheduler at a step of its own clock; None for a state of no class of torch's, or one beyond its end.

    `named` is the function that the user said a LambdaLR has.
    """
    simulated = _optimizer_like(optimizer, raw)
    functions = _Functions(named)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        scheduler = _built(_opened(raw), simulated, functions)
        if scheduler is None:
            return None
        simulated.step()
        try:
            for _ in range(step):
                scheduler.step()
        except ValueError:
            return None
    state = {key: value for key, value in copy.deepcopy(scheduler.state_dict()).items() if key in raw}
    options = [{key: group[key] for key in SET if key in group} for group in simulated.param_groups]
    return Replay(_kept(raw, state), None if functions.is_hidden else tuple(options))


class _Functions:
    """The functions of LambdaLRs, from what `ckptgrow train` keeps of them or the user's word; `is_hidden` tells that
    one was neither.
    """

    def __init__(self, named: Function | None) -> None:
        self._named = named
        self.is_hidden = False

    def of(self, raw: Raw, num_groups: int) -> list[Function]:
        saved = raw["lr_lambdas"]
        if all(isinstance(one, dict) and one.keys() == Schedule.__dataclass_fields__.keys() for one in saved):
            return [Schedule(**one) for one in saved]
        self.is_hidden = self.is_hidden or self._named is None
        return [self._named or (lambda _: 1.0)] * num_groups


def _built(raw: Raw, optimizer: Optimizer, functions: _Functions) -> lr_scheduler.LRScheduler | None:
    """The first class whose own state has the keys of this one, at its start."""
    start = [{key: group[key] for key in (*STARTS, *SET) if key in group} for group in optimizer.param_groups]
    for needed, build in _CLASSES:
        if not needed <= raw.keys():
            continue
        for group, values in zip(optimizer.param_groups, start, strict=True):
            group.update(values)
        _set_bases(optimizer, raw)
        remembered = [{key: group[key] for key in STARTS if key in group} for group in optimizer.param_groups]
        scheduler = build(raw, optimizer, functions)
        for group, values, before in zip(optimizer.param_groups, remembered, start, strict=True):
            group.update({**values, **{key: before[key] for key in STARTS if key in before}})
        if scheduler is not None and not (scheduler.state_dict().keys() ^ raw.keys()) - OPEN_KEYS:
            return scheduler
    return None


def _set_bases(optimizer: Optimizer, raw: Raw) -> None:
    """Each scheduler is built over the base rates of its own; those of CyclicLR are its lower bounds."""
    if "max_lrs" not in raw:
        for group, base in zip(optimizer.param_groups, raw.get("base_lrs", ()), strict=False):
            group["initial_lr"] = base


def _nested(raw: Raw, optimizer: Optimizer, functions: _Functions) -> list[lr_scheduler.LRScheduler] | None:
    inner = [_built(one, optimizer, functions) for one in raw["_schedulers"]]
    return None if None in inner else [one for one in inner if one is not None]


def _sequence(raw: Raw, optimizer: Optimizer, functions: _Functions) -> Any:
    inner = _nested(raw, optimizer, functions)
    return inner and lr_scheduler.SequentialLR(optimizer, inner, list(raw["_milestones"]))


def _chain(raw: Raw, optimizer: Optimizer, functions: _Functions) -> Any:
    inner = _nested(raw, optimizer, functions)
    return inner and lr_scheduler.ChainedScheduler(inner, optimizer)


def _one_cycle(raw: Raw, optimizer: Optimizer, functions: _Functions) -> Any:
    """Its rates and momenta lie in the groups; its phases are loaded as they are."""
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


def _cyclic(raw: Raw, optimizer: Optimizer, functions: _Functions) -> Any:
    if raw["_scale_fn_custom"] is not None:
        functions.is_hidden = True
    momenta: dict[str, Any] = {}
    if raw["cycle_momentum"]:
        momenta = {"base_momentum": raw["base_momentums"], "max_momentum": raw["max_momentums"]}
    scheduler = lr_scheduler.CyclicLR(
        optimizer,
        list(raw["base_lrs"]),
        list(raw["max_lrs"]),
        mode=raw["mode"],
        gamma=raw["gamma"],
        scale_mode=raw["scale_mode"],
        cycle_momentum=raw["cycle_momentum"],
        **momenta,
    )
    sizes = {"total_size": raw["total_size"], "step_ratio": raw["step_ratio"], "_scale_fn_custom": None}
    scheduler.load_state_dict(sizes)
    return scheduler


def _averaging(raw: Raw, optimizer: Optimizer, functions: _Functions) -> Any:
    rates: Any = [float(group["swa_lr"]) for group in optimizer.param_groups]
    return SWALR(optimizer, rates, raw["anneal_epochs"], raw["_anneal_strategy"])


def _of(kind: Any, *names: str) -> tuple[frozenset[str], Callable[..., Any]]:
    """A class that is built from fields of its state."""
    return frozenset(names), lambda raw, optimizer, _: kind(optimizer, **{name: raw[name] for name in names})


_CLASSES: tuple[tuple[frozenset[str], Callable[..., Any]], ...] = (
    (frozenset({"_schedulers", "_milestones"}), _sequence),
    (frozenset({"_schedulers"}), _chain),
    (
        frozenset({"lr_lambdas"}),
        lambda raw, optimizer, functions: lr_scheduler.LambdaLR(
            optimizer, functions.of(raw, len(optimizer.param_groups))
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


def _kept(raw: Raw, state: dict[str, Any]) -> dict[str, Any]:
    """The state with the functions that torch does not keep as the checkpoint has them."""
    kept = {**raw, **state}
    if "lr_lambdas" in raw:
        kept["lr_lambdas"] = raw["lr_lambdas"]
    if "_schedulers" in raw:
        kept["_schedulers"] = [_kept(*pair) for pair in zip(raw["_schedulers"], state["_schedulers"], strict=True)]
    return kept


def _optimizer_like(optimizer: OptimizerState, raw: Raw) -> Optimizer:
    """An optimizer with the groups' rates at the schedule's start; a rate that is a tensor is one, for it is rounded
    at every step.
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
    """The base rates of the schedulers that wrap none, in order."""
    for inner in raw.get("_schedulers", ()):
        yield from _bases(inner)
    if "_schedulers" not in raw and "base_lrs" in raw and "max_lrs" not in raw:
        yield [float(whole(one)) if isinstance(one, LazyTensor) else one for one in raw["base_lrs"]]


def _opened(value: Any) -> Any:
    """Tensors in memory, wherever they are."""
    if isinstance(value, LazyTensor):
        return whole(value).clone()
    if isinstance(value, dict):
        return {key: _opened(one) for key, one in value.items()}
    return [_opened(one) for one in value] if isinstance(value, list) else value
