"""Optimizers and schedulers after growth: each grows by itself, then schedulers set their optimizers' groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ckptgrow.errors import OptimizerError, RequestError, at
from ckptgrow.growth.carried_state import check_schedules
from ckptgrow.growth.growing import Growing
from ckptgrow.growth.grown_weights import Weights
from ckptgrow.growth.training.grown_moments import grown_state
from ckptgrow.growth.training.grown_schedulers import (
    Scheduled,
    check_sets_alone,
    clock_at,
    grown_scheduler,
    moved,
    optimizer_of,
)
from ckptgrow.growth.training.learning_rates import Origin, with_rates
from ckptgrow.growth.training.optimizer_table import row_of
from ckptgrow.growth.training.step_functions import Course, course
from ckptgrow.growth.training.weight_sizes import WeightSizes
from ckptgrow.state.decay_units import decoupled_classes
from ckptgrow.state.optimizer_state import OptimizerState


@dataclass(frozen=True)
class GrownTraining:
    """The grown optimizers and schedulers, and notes on them for the user."""

    optimizers: tuple[OptimizerState, ...]
    schedulers: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]


@dataclass
class _Optimizer:
    """One optimizer: the old one, the new one so far, and where each of its groups comes from."""

    old: OptimizerState
    new: OptimizerState
    origins: Sequence[Origin]


def grown_training(growing: Growing, weights: Weights) -> GrownTraining:
    """The training state of the grown checkpoint.

    Raises OptimizerError for an optimizer without a rule, and RequestError for a schedule that cannot be moved.
    """
    old = growing.old
    if old.optimizers and growing.changes_rates:
        check_schedules(old)
    if growing.request.rates == "mup":
        _check_decay(growing)
    named = _course(growing)
    sizes = WeightSizes(old.checkpoint.tensors, weights.in_module)
    optimizers = [_grown_optimizer(growing, sizes, index) for index in range(len(old.optimizers))]
    schedulers: list[Scheduled] = []
    for index in range(len(old.checkpoint.schedulers)):
        with at(f"{growing.where}: scheduler {index}", RequestError):
            schedulers.append(_grown_scheduler(growing, optimizers, index, named))
    return GrownTraining(
        tuple(one.new for one in optimizers),
        tuple(one.state for one in schedulers),
        (*_notes(growing, schedulers), *_notes_on_groups(growing, [one.new for one in optimizers])),
    )


def _course(growing: Growing) -> Course | None:
    """The schedule's function that the user named, if any; raises RequestError where the step does not move."""
    asked = growing.request.schedule
    named = course(asked)
    if named is not None and not growing.moves:
        raise RequestError(f"⟦schedule {asked}⟧: says what moves with the step, expected with ⟦step⟧; leave it out")
    return named


def _grown_optimizer(growing: Growing, sizes: WeightSizes, index: int) -> _Optimizer:
    old = growing.old.optimizers[index]
    with at(f"{growing.where}: optimizer {index}", OptimizerError):
        new, origins = with_rates(grown_state(old, growing, sizes), growing, sizes)
    return _Optimizer(old, new, origins)


def _grown_scheduler(growing: Growing, optimizers: Sequence[_Optimizer], index: int, named: Course | None) -> Scheduled:
    """One scheduler after growth; where the step moves, its optimizer's groups get the options of the new step."""
    old, raws = growing.old, growing.old.checkpoint.schedulers
    place = optimizer_of(index, raws, old.optimizers)
    if place is None:
        if optimizers and growing.changes_rates:
            raise RequestError(
                f"could set the rates of any of {len(optimizers)} optimizers, expected one a scheduler; use "
                "⟦lr_rule keep⟧ and ⟦step keep⟧, or ⟦reset schedule⟧"
            )
        return Scheduled(dict(raws[index]), None)
    optimizer = optimizers[place]
    grown = grown_scheduler(raws[index], optimizer.origins, len(optimizer.old.groups))
    if not growing.moves or growing.step is None:
        return Scheduled(grown, None)
    check_sets_alone(index, place, raws, old.optimizers)
    clock = clock_at(raws[index], (old.checkpoint.position.global_step or 0, growing.step))
    scheduled = moved(grown, clock, optimizer.new, named)
    optimizer.new = replace(optimizer.new, groups=scheduled.groups(optimizer.new))
    return scheduled


def _pace(growing: Growing) -> int:
    """How many times as fast matrices move in function under the old rates: the most copies that one of them reads,
    times what these are written by, where an optimizer's updates have the same size whatever the gradient's is.
    """
    groups = ((state, group) for state in growing.old.optimizers for group in state.groups)
    is_normalised = any(row_of(state, group).lr in ("normalised", "adafactor") for state, group in groups)
    read = (axis.growth for one in growing.lineage for axis in one.growth.axes if axis.role == "in")
    pace = max((float((one.num_copies * one.write).max()) for one in read), default=1.0)
    return max(1, round(pace)) if is_normalised else 1


def _check_decay(growing: Growing) -> None:
    """Raises OptimizerError for optimizers of Composer's whose decay does not follow the learning rate.

    What keeps lr · weight_decay would multiply theirs (`state.decay_units`).
    """
    classes = decoupled_classes(growing.old.as_read.checkpoint)
    for name, state in zip(classes, growing.old.optimizers, strict=False):
        if name is not None and any(group.options.get("weight_decay") for group in state.groups):
            raise OptimizerError(
                f"{growing.where}: {name} decays weights by weight_decay · lr / initial_lr, which no lr rule keeps, "
                "expected an optimizer whose decay follows its lr; use ⟦lr_rule keep⟧"
            )


def _notes_on_groups(growing: Growing, optimizers: Sequence[OptimizerState]) -> list[str]:
    """How scripts build an optimizer that has other groups than the small one's."""
    if growing.old.checkpoint.kind not in ("lightning", "torch", "torch-files") or growing.old.translation is not None:
        return []
    changed = [
        f"{len(old.groups)} → {len(new.groups)}"
        for old, new in zip(growing.old.optimizers, optimizers, strict=True)
        if len(old.groups) != len(new.groups)
    ]
    if not changed:
        return []
    return [
        f"the optimizer has a group for each learning rate now ({', '.join(changed)}): a script of your own builds it "
        "with ckptgrow.train.parameter_groups(model, checkpoint), before it loads its state"
    ]


def _notes(growing: Growing, schedulers: Sequence[Scheduled]) -> list[str]:
    notes: list[str] = []
    if not growing.old.optimizers:
        notes.append("it has no optimizer state: the weights alone were grown")
    notes += [one.note for one in schedulers if one.note]
    pace = _pace(growing)
    if growing.request.rates == "keep" and pace > 1:
        notes.append(
            f"learning rates stay as they were, so grown matrices move the function up to {pace} times as fast; that "
            "is usual. Only if the loss then rises, the small run's rate was near the largest that it bears: ⟦lr_rule "
            "mup⟧, or a lower lr, keeps the old pace"
        )
    if growing.request.rates == "mup" and growing.old.checkpoint.kind in ("trainer", "deepspeed"):
        notes.append(
            "the optimizer has one group a learning rate now, where the Trainer makes two: give it one with these "
            "groups (see docs/how-to/own-scripts.md), or use ⟦lr_rule keep⟧"
        )
    translation = growing.old.translation
    home = None if translation is None else translation.dialect.home
    if growing.request.rates == "mup" and translation is not None and home is not None and home.groups != "names":
        notes.append(
            f"{translation.dialect.trainer} makes its optimizer's groups itself, and sets one rate for all of them: it "
            "does not load the groups of ⟦lr_rule mup⟧; use ⟦lr_rule keep⟧, or make these groups in a copy of it"
        )
    if growing.moment_rounding is not None:
        notes.append(
            "moments in 8 bits are exact in blocks that are copies of one block, and rounded again elsewhere, by "
            f"{growing.moment_rounding:.1%} of their block's largest at most"
        )
    if growing.request.rewarm and growing.old.checkpoint.kind != "live":
        notes.append(
            f"the learning rate rises again over {growing.request.rewarm} steps wherever ckptgrow trains, and with "
            f"its callbacks; a script of your own says ckptgrow.Rewarming(optimizer, {growing.request.rewarm})"
        )
    return notes
