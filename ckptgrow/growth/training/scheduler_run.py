"""Runs torch's own schedulers from their start to any step, on an optimizer with the run's groups."""

from __future__ import annotations

import bisect
import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch

from ckptgrow.errors import RequestError
from ckptgrow.growth.training.learning_rates import LR_OPTIONS
from ckptgrow.growth.training.scheduler_table import clock_of, leaves, rebuilt
from ckptgrow.growth.training.step_functions import Function, recorded_functions
from ckptgrow.state.optimizer_state import OptimizerState
from ckptgrow.storage.tensors import InMemory, is_lazy, whole

Raw = Mapping[str, Any]

MOVED_OPTIONS = ("lr", "betas", "momentum")
EXACT, ROUNDED = 1e-6, 1e-4  # relative, of rates run again in float64, and in a float32 tensor
WAYS_OUT = "use ⟦step keep⟧ or ⟦reset schedule⟧"


@dataclass(frozen=True)
class Functions:
    """The functions of LambdaLRs: those that their state holds, else the one that the user named."""

    named: Function | None

    def __call__(self, raw: Raw) -> list[Function]:
        known = recorded_functions(raw["lr_lambdas"])
        return known or [self.named or _one] * len(raw["lr_lambdas"])

    def is_hidden(self, raw: Raw, step: int) -> bool:
        """Whether the rates depend on an unknown function by a step."""
        if "_milestones" in raw:
            begun = bisect.bisect_right(raw["_milestones"], step) + 1
            starts = [0, *raw["_milestones"]]
            ends = [*(milestone - 1 for milestone in raw["_milestones"]), step]
            return any(
                self.is_hidden(inner, min(step, end) - start)
                for inner, start, end in list(zip(raw["_schedulers"], starts, ends, strict=True))[:begun]
            )
        if "_schedulers" in raw:
            return any(self.is_hidden(inner, step) for inner in raw["_schedulers"])
        if "lr_lambdas" in raw:
            return self.named is None and recorded_functions(raw["lr_lambdas"]) is None
        return raw.get("_scale_fn_custom") is not None


def _one(step: int) -> float:
    return 1.0


def replayed(
    raw: Raw, step: int, optimizer: OptimizerState, functions: Functions
) -> tuple[dict[str, Any], tuple[Raw, ...]]:
    """A scheduler's state and each group's options at a step, from running torch's own scheduler.

    Raises RequestError where the run has other rates than the checkpoint at the checkpoint's own step, and for a step
    beyond the schedule's end.
    """
    own = clock_of(raw) or 0
    simulated = _optimizer_like(optimizer, raw)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a sequence within one steps when it is built
            scheduler = rebuilt(raw, simulated, functions)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # torch's own, of settings that are none
        raise RequestError(f"torch cannot build it from its state ({error}); {WAYS_OUT}") from error
    simulated.step()
    found: tuple[dict[str, Any], tuple[Raw, ...]] = {}, ()
    for now in range(max(step, own) + 1):
        try:
            scheduler.step() if now else None
        except ValueError as error:
            raise RequestError(f"⟦step {step}⟧: beyond the schedule's end ({error}); choose an earlier step") from error
        if now == own and not functions.is_hidden(raw, own):
            _check_rates(raw, simulated)
        if now == step:
            state = copy.deepcopy(scheduler.state_dict())
            found = stored(_merged(raw, state, step, functions)), _options_of(simulated, optimizer)
    return found


def _check_rates(raw: Raw, simulated: torch.optim.Optimizer) -> None:
    """Raises RequestError where the rates are not those of the checkpoint."""
    rates = raw.get("_last_lr")
    groups = simulated.param_groups
    if not isinstance(rates, list) or len(rates) != len(groups):
        return
    for rate, group in zip(rates, groups, strict=True):
        expected, rounding = float(group["lr"]), ROUNDED if isinstance(group["lr"], torch.Tensor) else EXACT
        if abs(float(rate) - expected) > rounding * max(abs(expected), float(group.get("initial_lr", expected))):
            raise RequestError(
                f"at its own step its rate is {float(rate):.6g}, expected {expected:.6g} from its state, so "
                f"something else sets it (a function, another schedule, a hand); {WAYS_OUT}"
            )


def _options_of(simulated: torch.optim.Optimizer, optimizer: OptimizerState) -> tuple[Mapping[str, Any], ...]:
    return tuple(
        {key: copy.deepcopy(group[key]) for key in MOVED_OPTIONS if key in old.options}
        for group, old in zip(simulated.param_groups, optimizer.groups, strict=True)
    )


def _merged(raw: Raw, replayed: Raw, step: int, functions: Functions) -> dict[str, Any]:
    """The run's state, with what only the checkpoint's state knows: functions of the script, and their last rates."""
    kept = {"lr_lambdas"} | ({"_last_lr"} if functions.is_hidden(raw, step) else set())
    merged = {**raw, **{key: value for key, value in replayed.items() if key not in kept}}
    if isinstance(raw.get("_schedulers"), list):
        pairs = zip(raw["_schedulers"], replayed["_schedulers"], strict=True)
        merged["_schedulers"] = [_merged(old, new, step, functions) for old, new in pairs]
    return merged


def opened(raw: Raw) -> dict[str, Any]:
    """A scheduler's state with its lazy tensors read into memory."""
    return {key: _opened(value) for key, value in raw.items()}


def _opened(value: Any) -> Any:
    if is_lazy(value):
        return whole(value).clone()
    if isinstance(value, Mapping):
        return {key: _opened(one) for key, one in cast(Raw, value).items()}
    return [_opened(one) for one in cast(list[Any], value)] if isinstance(value, list) else value


def stored(value: Any) -> Any:
    """A state whose tensors are lazy again, as a checkpoint holds them: the inverse of `opened`."""
    if isinstance(value, torch.Tensor):
        return InMemory(value)
    if isinstance(value, Mapping):
        return {key: stored(one) for key, one in cast(Raw, value).items()}
    return [stored(one) for one in cast(list[Any], value)] if isinstance(value, list) else value


def _optimizer_like(optimizer: OptimizerState, raw: Raw) -> torch.optim.Optimizer:
    """An optimizer with the learning rates and momenta of the same groups at the schedule's start.

    Rates that are tensors stay tensors, because these are rounded at every step.
    """
    first = next((leaf["base_lrs"] for leaf in leaves(raw) if "base_lrs" in leaf and "max_lrs" not in leaf), None)
    groups: list[dict[str, Any]] = []
    for index, group in enumerate(optimizer.groups):
        known = group.options
        options: dict[str, Any] = {
            key: _opened(known[key])
            for key in (*LR_OPTIONS, "base_momentum", "max_momentum")
            if known.get(key) is not None
        }
        start = options.get("initial_lr", options.get("lr", 0.0)) if first is None else first[index]
        is_tensor = isinstance(options.get("lr"), torch.Tensor)
        options["lr"] = torch.full_like(options["lr"], float(start)) if is_tensor else float(start)
        options["betas"] = tuple(_float(beta) for beta in known.get("betas", (0.9, 0.999)))[:2]
        options["momentum"] = _float(known.get("momentum", 0.9))
        groups.append({"params": [torch.zeros(1, requires_grad=True)], **options})
    if any("betas" in group.options for group in optimizer.groups):
        return torch.optim.Adam(groups)
    return torch.optim.SGD(groups, momentum=0.9)


def _float(value: Any) -> float:
    return 0.0 if value is None else float(whole(value)) if is_lazy(value) else float(value)
