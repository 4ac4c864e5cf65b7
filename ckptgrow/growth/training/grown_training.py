"""Optimizers and schedulers after growth: each grows by itself, then schedules set the groups of their optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ckptgrow.errors import RequestError
from ckptgrow.growth.carried_state import check_schedules
from ckptgrow.growth.growing import Growing
from ckptgrow.growth.grown_weights import Weights
from ckptgrow.growth.training.grown_moments import grown_state
from ckptgrow.growth.training.grown_schedulers import (
    check_sets_alone,
    clock_at,
    grown_scheduler,
    moved,
    optimizer_of,
)
from ckptgrow.growth.training.learning_rates import Origin, with_rates
from ckptgrow.growth.training.step_functions import Course, course
from ckptgrow.growth.training.weight_sizes import WeightSizes
from ckptgrow.state.optimizer_state import OptimizerState


@dataclass
class GrownTraining:
    """Optimizers, each with the origins of its groups, schedulers, and what the user should know of them."""

    optimizers: list[OptimizerState] = field(default_factory=list[OptimizerState])
    origins: list[tuple[Origin, ...]] = field(default_factory=list[tuple[Origin, ...]])
    schedulers: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    notes: list[str] = field(default_factory=list[str])


def grown_training(growing: Growing, weights: Weights) -> GrownTraining:
    """The training state of the grown checkpoint.

    Raises OptimizerError for an optimizer that no rule knows, RequestError for a schedule that cannot be moved.
    """
    old, request = growing.old, growing.request
    if old.optimizers and (request.lr_rule == "mup" or growing.moves):
        check_schedules(old)
    named = course(request.schedule)
    if named is not None and not growing.moves:
        raise RequestError(
            f"⟦schedule {request.schedule}⟧: says what moves with the step, expected with ⟦step⟧; leave it out"
        )
    training, sizes = GrownTraining(), WeightSizes(old.checkpoint.tensors, weights.in_module)
    if not old.optimizers:
        training.notes.append("it has no optimizer state: the weights alone were grown")
    for index, state in enumerate(old.optimizers):
        where = f"{growing.where}: optimizer {index}"
        grown, origins = with_rates(grown_state(state, growing, sizes, where), growing, sizes, where)
        training.optimizers.append(grown)
        training.origins.append(origins)
    for index, raw in enumerate(old.checkpoint.schedulers):
        training.schedulers.append(_grown_scheduler(growing, training, index, raw, named))
    training.notes += _notes(growing)
    return training


def _grown_scheduler(
    growing: Growing, training: GrownTraining, index: int, raw: Mapping[str, Any], named: Course | None
) -> dict[str, Any]:
    """One scheduler's state; where the step moves, its optimizer's groups get their options there."""
    old, raws = growing.old, growing.old.checkpoint.schedulers
    where = f"{growing.where}: scheduler {index}"
    place = optimizer_of(index, raws, old.optimizers)
    if place is None:
        if training.optimizers and (growing.moves or growing.request.lr_rule == "mup"):
            raise RequestError(
                f"{where}: could set the rates of any of {len(training.optimizers)} optimizers, expected one a "
                "scheduler; use ⟦lr_rule keep⟧ and ⟦step keep⟧, or ⟦reset schedule⟧"
            )
        return dict(raw)
    grown = grown_scheduler(raw, training.origins[place], len(old.optimizers[place].groups), where)
    if not growing.moves or growing.step is None:
        return grown
    check_sets_alone(index, place, raws, old.optimizers, where)
    clock = clock_at(raw, (old.checkpoint.global_step or 0, growing.step), where)
    scheduled = moved(grown, clock, training.optimizers[place], where, named)
    optimizer = training.optimizers[place]
    training.optimizers[place] = replace(optimizer, groups=scheduled.groups(optimizer))
    training.notes += [scheduled.note] if scheduled.note else []
    return scheduled.state


def _notes(growing: Growing) -> list[str]:
    notes: list[str] = []
    if growing.request.lr_rule == "mup" and growing.old.checkpoint.kind == "trainer":
        notes.append(
            "the optimizer has one group a learning rate now, where the Trainer makes two: give it one with these "
            "groups (see the README), or use ⟦lr_rule keep⟧"
        )
    if growing.request.rewarm:
        notes.append(
            f"the learning rate rises again over {growing.request.rewarm} steps in `ckptgrow train` and in schedules "
            "wrapped by ckptgrow.train (see the README); other scripts do not see it"
        )
    return notes
