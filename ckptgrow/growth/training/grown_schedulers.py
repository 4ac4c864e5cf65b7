"""Schedulers after growth: one entry for each new parameter group, and the schedule's clock at another step.

A run has two clocks. The schedule step decides on learning rates and bias corrections, and a growth may move it. The
data position is never moved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ckptgrow.errors import RequestError, listing
from ckptgrow.growth.training.learning_rates import Origin, times
from ckptgrow.growth.training.scheduler_run import WAYS_OUT, Functions, opened, replayed
from ckptgrow.growth.training.scheduler_table import clock_of, follows_loss, is_known, leaves
from ckptgrow.growth.training.step_functions import EXAMPLE, LAMBDA, Course
from ckptgrow.state.optimizer_state import OptimizerState, ParameterGroup
from ckptgrow.storage.tensors import InMemory, is_lazy, whole

Raw = Mapping[str, Any]

SCALED_LISTS = ("base_lrs", "_last_lr", "max_lrs", "min_lrs", "_init_lrs")
CARRIED_LISTS = ("lr_lambdas", "base_momentums", "max_momentums")
SKIPPED_STEPS, SKIPPED_SHARE = 2, 0.02  # steps without an update (overflows in float16), where schedules may not tick
OF_THE_SCRIPT = (
    "the schedule's function is in your script: its clock is set, the first step still uses the old learning rate"
)
OF_THE_LOSS = "the schedule follows the loss (ReduceLROnPlateau, GreedyLR), so its learning rate was left as it is"


@dataclass(frozen=True)
class Scheduled:
    """A scheduler after growth.

    `state`: its grown state; `options`: what it sets in each group at its step, None where that cannot be computed;
    `note`: a sentence for the user, or nothing.
    """

    state: dict[str, Any]
    options: tuple[Mapping[str, Any], ...] | None
    note: str = ""

    def groups(self, optimizer: OptimizerState) -> tuple[ParameterGroup, ...]:
        """The optimizer's groups at the schedule's step; options that were tensors stay tensors."""
        if self.options is None:
            return optimizer.groups
        return tuple(
            group.with_options(**{key: _like(group.options[key], value) for key, value in options.items()})
            for group, options in zip(optimizer.groups, self.options, strict=True)
        )


def optimizer_of(index: int, schedulers: Sequence[Raw], optimizers: Sequence[OptimizerState]) -> int | None:
    """The index of the optimizer whose learning rates a scheduler sets; None where it is not known.

    It is the only optimizer; the one at the same place, where there are as many optimizers as schedulers; or the only
    one whose groups have the scheduler's base learning rates.
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


def check_sets_alone(index: int, place: int, schedulers: Sequence[Raw], optimizers: Sequence[OptimizerState]) -> None:
    """Raises RequestError where another scheduler sets the same rates, because the last one to set them is unknown."""
    others = [one for one in range(len(schedulers)) if one != index]
    if any(optimizer_of(other, schedulers, optimizers) == place for other in others):
        raise RequestError(
            f"is one of {len(schedulers)} that set the rates of optimizer {place}, expected a single one to "
            f"be moved; {WAYS_OUT}"
        )


def grown_scheduler(raw: Raw, origins: Sequence[Origin], num_groups: int) -> dict[str, Any]:
    """A scheduler's state with one entry for each new group, from one with an entry for each of `num_groups` old ones.

    Raises RequestError where groups would need different values of a setting that the scheduler has only once, and
    where it has entries for another number of groups.
    """
    ratios = {origin.ratio for origin in origins}
    if ratios != {1.0} and not is_known(raw) and not follows_loss(raw):
        keys = listing(sorted(raw.keys() - {"last_epoch", "base_lrs"}))
        raise RequestError(
            f"no rule for a schedule of {keys}, which may set rates of its own, expected one of torch's; use "
            "⟦lr_rule keep⟧ or ⟦reset schedule⟧"
        )
    if raw.get("eta_min") and ratios != {1.0}:
        raise RequestError(
            f"eta_min {raw['eta_min']} is one for all groups, but ⟦lr_rule mup⟧ scales each; expected "
            "eta_min 0; use ⟦lr_rule keep⟧"
        )
    grown = dict(raw)
    for key in (*SCALED_LISTS, *CARRIED_LISTS):
        values = raw.get(key)
        if isinstance(values, list):
            if len(values) != num_groups:
                raise RequestError(
                    f"{key} has {len(values)} entries, expected one for each of the optimizer's {num_groups} "
                    "groups; begin it anew with ⟦reset schedule⟧"
                )
            grown[key] = [
                times(values[origin.group], origin.ratio) if key in SCALED_LISTS else values[origin.group]
                for origin in origins
            ]
    if isinstance(raw.get("_schedulers"), list):
        grown["_schedulers"] = [grown_scheduler(inner, origins, num_groups) for inner in raw["_schedulers"]]
    return grown


def moved(raw: Raw, step: int, optimizer: OptimizerState, named: Course | None = None) -> Scheduled:
    """A scheduler with its clock at `step`.

    torch's own scheduler is built again from its state and run from its start, so that recursive ones (linear, cosine,
    exponential) go on from the right learning rate. At the checkpoint's step it must have the checkpoint's rates;
    otherwise something else sets them that the state does not hold. A scheduler that follows the loss stays as it is.

    Raises RequestError for a step beyond the schedule's end, and where the rates cannot be computed from the state.
    """
    if follows_loss(raw):
        return Scheduled(dict(raw), None, OF_THE_LOSS)
    if not is_known(raw):
        keys = listing(sorted(raw.keys() - {"last_epoch", "base_lrs"}))
        raise RequestError(f"no rule for a schedule of {keys}, so its rate at step {step} is unknown; {WAYS_OUT}")
    raw = opened(raw)
    peak = max((float(base) for leaf in leaves(raw) for base in leaf.get("base_lrs", ())), default=0.0)
    functions = Functions(named.function(peak) if named else None)
    is_hidden = functions.is_hidden(raw, step)
    if is_hidden and (named is None or named.name != LAMBDA):
        raise RequestError(
            f"its function is in your script (LambdaLR, MultiplicativeLR or a scale_fn), so its rate at step "
            f"{step} is unknown; expected one that ⟦schedule⟧ names, as {EXAMPLE}, or {LAMBDA} for a LambdaLR of your "
            f"own; else {WAYS_OUT}"
        )
    state, options = replayed(raw, step, optimizer, functions)
    return Scheduled(state, None, OF_THE_SCRIPT) if is_hidden else Scheduled(state, options)


def clock_at(raw: Raw, steps: tuple[int, int]) -> int:
    """A scheduler's clock after the run's step is moved; `steps` are the run's old and new step.

    It may tick at every step, or at a fixed rate to the steps (at every epoch; once for each process under accelerate).

    Raises RequestError where this gives no whole number.
    """
    old, new = steps
    clock = clock_of(raw)
    if clock is None or abs(clock - old) <= max(SKIPPED_STEPS, SKIPPED_SHARE * old):
        return new
    if not old or new * clock % old:
        raise RequestError(
            f"its clock is at {clock} where the run is at step {old}, so at step {new} it is at no whole "
            f"number, expected a ⟦step⟧ that is a multiple of {old // math.gcd(clock, old)}; choose one, or {WAYS_OUT}"
        )
    return new * clock // old


def _like(old: Any, new: Any) -> Any:
    return InMemory(torch.full_like(whole(old), new)) if is_lazy(old) else new


def _float(value: Any) -> float:
    return 0.0 if value is None else float(whole(value)) if is_lazy(value) else float(value)
