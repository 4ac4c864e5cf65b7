"""Schedulers after growth: one entry a new parameter group, and the schedule's clock at another step.

Two clocks are kept apart: the schedule step (learning rate, bias correction), which may be moved, and the data
position, which never is.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ckptgrow.checkpoints.optimizer import OptimizerState, ParameterGroup
from ckptgrow.checkpoints.tensors import Held, LazyTensor, whole
from ckptgrow.errors import RequestError
from ckptgrow.growth.rates import LR_OPTIONS, Origin, times
from ckptgrow.growth.schedulers import rebuilt

Raw = Mapping[str, Any]

SCALED_LISTS = ("base_lrs", "_last_lr", "max_lrs", "min_lrs")
CARRIED_LISTS = ("lr_lambdas", "base_momentums", "max_momentums")
MOVED_OPTIONS = ("lr", "betas", "momentum")
OF_THE_SCRIPT = "the schedule's function is in your script: the first step still uses the old learning rate"
OF_THE_LOSS = "the schedule follows the loss (ReduceLROnPlateau), so its learning rate was left as it is"


@dataclass(frozen=True)
class Scheduled:
    """A scheduler's grown state, each group's options at its step where they could be computed, and what a user should
    know.
    """

    state: dict[str, Any]
    options: tuple[Mapping[str, Any], ...] | None
    note: str = ""

    def groups(self, optimizer: OptimizerState) -> tuple[ParameterGroup, ...]:
        """The optimizer's groups at the schedule's step; a learning rate that was a tensor stays one."""
        if self.options is None:
            return optimizer.groups
        return tuple(
            group.with_options(**{key: _like(group.options[key], value) for key, value in options.items()})
            for group, options in zip(optimizer.groups, self.options, strict=True)
        )


def optimizer_of(index: int, schedulers: Sequence[Raw], optimizers: Sequence[OptimizerState]) -> int | None:
    """Whose learning rates a scheduler sets: the only optimizer's, that at its own place where there are as many, else
    the one whose groups have its base learning rates; None where that is no single one.
    """
    if len(optimizers) == 1:
        return 0
    if len(schedulers) == len(optimizers):
        return index
    bases = [_float(value) for value in schedulers[index].get("base_lrs", [])]
    fitting = [
        place
        for place, optimizer in enumerate(optimizers)
        if bases == [_float(group.options.get("initial_lr", -1.0)) for group in optimizer.groups]
    ]
    return fitting[0] if len(fitting) == 1 else None


def grown_scheduler(raw: Raw, origins: Sequence[Origin], num_groups: int, where: str) -> dict[str, Any]:
    """A scheduler's state with one entry a new group, from one with an entry for each of `num_groups` old ones.

    Raises RequestError where groups would need different values of a setting that the scheduler has but once, and where
    it has entries for another number of groups.
    """
    ratios = {origin.ratio for origin in origins}
    if raw.get("eta_min") and ratios != {1.0}:
        raise RequestError(
            f"{where}: eta_min {raw['eta_min']} is one for all groups, but --lr-rule mup scales each; expected "
            "eta_min 0; use --lr-rule keep"
        )
    grown = dict(raw)
    for key in (*SCALED_LISTS, *CARRIED_LISTS):
        values = raw.get(key)
        if isinstance(values, list):
            if len(values) != num_groups:
                raise RequestError(
                    f"{where}: {key} has {len(values)} entries, expected one for each of the optimizer's {num_groups} "
                    "groups; begin it anew with --reset schedule"
                )
            grown[key] = [
                times(values[origin.group], origin.ratio) if key in SCALED_LISTS else values[origin.group]
                for origin in origins
            ]
    if isinstance(raw.get("_schedulers"), list):
        grown["_schedulers"] = [grown_scheduler(inner, origins, num_groups, where) for inner in raw["_schedulers"]]
    return grown


def moved(raw: Raw, step: int, optimizer: OptimizerState) -> Scheduled:
    """A scheduler with its clock at `step`.

    Torch's own scheduler is built again from its state and run from its start, so that recursive ones (linear, cosine,
    exponential) go on from the right learning rate. What keeps its function in the user's script (LambdaLR) gets its
    clock, and has its learning rate right from its first step on; what follows the loss stays.

    Raises RequestError for a step beyond the schedule's end.
    """
    if "num_bad_epochs" in raw:
        return Scheduled(dict(raw), None, OF_THE_LOSS)
    simulated = _optimizer_like(optimizer)
    scheduler = rebuilt(raw, simulated)
    if scheduler is None:
        return Scheduled(_at(raw, step), None, OF_THE_SCRIPT)
    simulated.step()
    try:
        for _ in range(step):
            scheduler.step()
    except ValueError as error:
        raise RequestError(f"--step {step}: beyond the schedule's end ({error}); choose an earlier step") from error
    state = _merged(raw, scheduler.state_dict())
    if not _is_known_at(raw, step):
        return Scheduled(state, None, OF_THE_SCRIPT)
    options = tuple(
        {key: group[key] for key in MOVED_OPTIONS if key in old.options}
        for group, old in zip(simulated.param_groups, optimizer.groups, strict=True)
    )
    return Scheduled(state, options)


def with_schedule(state: OptimizerState, scheduled: Scheduled) -> OptimizerState:
    """The optimizer with its groups at the schedule's step."""
    return replace(state, groups=scheduled.groups(state))


def _merged(raw: Raw, replayed: Raw) -> dict[str, Any]:
    """What the replay knows, over what only the state knows: functions in the script, and their last rates."""
    kept = ("lr_lambdas", "_last_lr") if "lr_lambdas" in raw else ()
    merged = {**raw, **{key: value for key, value in replayed.items() if key not in kept}}
    if isinstance(raw.get("_schedulers"), list):
        pairs = zip(raw["_schedulers"], replayed["_schedulers"], strict=True)
        merged["_schedulers"] = [_merged(old, new) for old, new in pairs]
    return merged


def _is_known_at(raw: Raw, step: int) -> bool:
    """Whether the learning rate at a step follows from the state alone."""
    if "_milestones" in raw:
        active = bisect.bisect_right(raw["_milestones"], step)
        return _is_known_at(raw["_schedulers"][active], step)
    return "lr_lambdas" not in raw and all(_is_known_at(inner, step) for inner in raw.get("_schedulers", ()))


def _at(raw: Raw, step: int) -> dict[str, Any]:
    """An unknown scheduler's state with its clock at `step`."""
    state = dict(raw)
    if "last_epoch" in raw:
        state["last_epoch"] = step
        if "_step_count" in raw:
            state["_step_count"] = int(raw["_step_count"]) + step - int(raw["last_epoch"])
    return state


def _optimizer_like(optimizer: OptimizerState) -> torch.optim.Optimizer:
    """An optimizer with the same groups' learning rates and momenta, at the schedule's start."""
    groups: list[dict[str, Any]] = []
    for group in optimizer.groups:
        known = group.options
        options: dict[str, Any] = {
            key: _float(known[key]) for key in (*LR_OPTIONS, "base_momentum", "max_momentum") if key in known
        }
        options["lr"] = options.pop("initial_lr", options.get("lr", 0.0))
        options["betas"] = tuple(_float(beta) for beta in known.get("betas", (0.9, 0.999)))[:2]
        options["momentum"] = _float(known.get("momentum", 0.9))
        groups.append({"params": [torch.zeros(1, requires_grad=True)], **options})
    if any("betas" in group.options for group in optimizer.groups):
        return torch.optim.Adam(groups)
    return torch.optim.SGD(groups, momentum=0.9)


def _like(old: Any, new: Any) -> Any:
    return Held(torch.full_like(whole(old), new)) if isinstance(old, LazyTensor) else new


def _float(value: Any) -> float:
    return 0.0 if value is None else float(whole(value)) if isinstance(value, LazyTensor) else float(value)
