"""Optimizer records grow by the same algebra as gradients: first moments linearly, second moments by squares.

A factored second moment V = row · column / mean(row) (Adafactor) grows by its factors. With s the gradient's factors
along one axis each,

    row'[j] = s_out[j]² · row[src j] · mean(s_in² · column[src]) / mean(column)       columns likewise

so that V' = s_out² · s_in² · V[src] in every entry. Where every coordinate has equally many copies these are the very
factors that the optimizer builds in the grown model; where copies are uneven, those of the best guess of rank one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from ckptgrow.errors import OptimizerError
from ckptgrow.growth.parameters import Descent
from ckptgrow.growth.request import FreshMoments
from ckptgrow.growth.tensors.factored_moments import grown_factor
from ckptgrow.growth.tensors.fresh_entries import Averaged
from ckptgrow.growth.tensors.grown_tensors import Guard, Scaled, gathered
from ckptgrow.growth.training.optimizer_table import Entry, row_of
from ckptgrow.growth.training.weight_sizes import WeightSizes
from ckptgrow.spaces.gather import Gather, TensorGrowth
from ckptgrow.state.optimizer_state import OptimizerState, ParameterGroup
from ckptgrow.storage.tensors import Held, LazyTensor, Zeros, is_lazy, whole

LARGEST_STEP = 2.0**53  # the last whole number that a float64 counts up to


@dataclass(frozen=True)
class StepClock:
    """The optimizer's own clock (bias correction) after growth: set back to `limit` where that is earlier."""

    limit: int | None

    def new(self, step: float) -> float:
        """A parameter's step in the grown state; it never pretends to have seen more gradients than it has."""
        return step if self.limit is None else min(step, self.limit)


@dataclass(frozen=True)
class _Context:
    """What the growth of one parameter's record depends on."""

    one: Descent
    record: Mapping[str, Any]
    options: Mapping[str, Any]
    clock: StepClock
    sizes: WeightSizes
    guard: Callable[[LazyTensor, str], LazyTensor]
    fresh_moments: FreshMoments
    where: str  # with {} for the entry

    @property
    def is_fresh(self) -> bool:
        return self.one.layer.kind in ("zero-output", "zero-norm")

    def partner(self, key: str) -> LazyTensor:
        return self.guard(self.record[key], key)


def grown_state(
    state: OptimizerState,
    lineage: Sequence[Descent],
    sizes: WeightSizes,
    clock: StepClock,
    where: str,
    guard: Guard,
    fresh_moments: FreshMoments,
) -> OptimizerState:
    """The grown optimizer state: the same groups, their parameters in the grown model's order.

    Raises OptimizerError for an optimizer, or an entry of a record, that no row of the table knows.
    """
    children: dict[str, list[Descent]] = {}
    for one in lineage:
        children.setdefault(one.old.name, []).append(one)
    position = {one.name: index for index, one in enumerate(lineage)}
    old_position = {one.old.name: index for index, one in reversed(list(enumerate(lineage)))}
    groups: list[ParameterGroup] = []
    records: dict[str, dict[str, Any]] = {}
    for old_group in state.groups:
        entries = row_of(state, old_group, where).entries
        group = _grown_group(old_group, children, position, old_position)
        groups.append(group)
        for one in (lineage[position[name]] for name in group.names):
            record = state.state.get(one.old.name)
            if record is not None:
                guarded = partial(_guarded, guard, f"{where}: {{}} of {one.old.name}")
                place = f"{where}: {{}} of {one.old.name}"
                context = _Context(one, record, group.options, clock, sizes, guarded, fresh_moments, place)
                records[one.name] = {key: _grown_entry(entries, key, value, context) for key, value in record.items()}
    return replace(state, groups=tuple(groups), state=records)


def _guarded(guard: Guard, place: str, tensor: LazyTensor, key: str) -> LazyTensor:
    return guard(tensor, place.format(key))


def _grown_group(
    group: ParameterGroup,
    children: Mapping[str, Sequence[Descent]],
    position: Mapping[str, int],
    old_position: Mapping[str, int],
) -> ParameterGroup:
    """Groups in model order stay so; others keep their order, new layers' parameters following their source's."""
    names = [child.name for name in group.names for child in children[name]]
    if list(group.names) == sorted(group.names, key=old_position.__getitem__):
        names.sort(key=position.__getitem__)
    return ParameterGroup(group.options, tuple(names), group.has_param_names)


def _grown_entry(entries: Mapping[str, Entry], key: str, value: Any, context: _Context) -> Any:
    entry, growth = entries[key], context.one.growth
    if entry == "step":
        if not 0 <= _float(value) < LARGEST_STEP:
            raise OptimizerError(f"{context.where.format(key)} is {_float(value)}, expected a count of steps")
        return _number(value, 0 if context.is_fresh else context.clock.new(_float(value)))
    if entry == "momentum product":
        return _number(value, _momentum_product(value, context))
    if entry == "weight size":
        return _number(value, 0 if context.is_fresh else _float(value) * context.sizes.ratio(context.one))
    if value is None:
        return None  # a momentum that has seen no gradient
    if not is_lazy(value) or not value.dtype.is_floating_point:
        raise OptimizerError(
            f"{context.where.format(key)} is {str(value)[:40]}, expected a tensor of floating-point numbers; leave the "
            "optimizer out with --reset optimizer"
        )
    if context.is_fresh:
        shape = value.shape if growth.is_identity else growth.gradient.shape
        return Zeros(shape, value.dtype)
    guarded = context.guard(value, key)
    if growth.is_identity:
        return guarded
    filled = growth.has_fresh and context.fresh_moments == "mean"
    if entry in ("row", "column"):
        other = next(name for name, kind in entries.items() if kind in ("row", "column") and name != key)
        return grown_factor(entry, guarded, context.partner(other), growth, filled=filled)
    if filled and entry == "square":
        return Averaged(guarded, growth.square)
    grown = gathered(guarded, _gather(entry, growth))
    return Scaled(grown, _update_ratio(context)) if entry == "update" else grown


def _gather(entry: Literal["gradient", "square", "magnitude", "direction", "update"], growth: TensorGrowth) -> Gather:
    match entry:
        case "gradient":
            return growth.gradient
        case "square":
            return growth.square
        case "magnitude":
            return growth.magnitude
        case "direction" | "update":
            return growth.direction


def _update_ratio(context: _Context) -> float:
    """How much larger an unchanged learning rate's updates are: Adafactor's may scale with the weight."""
    return context.sizes.ratio(context.one) if context.options.get("scale_parameter") else 1.0


def _momentum_product(value: Any, context: _Context) -> float:
    """NAdam's Π μ_t, μ_t = β₁ (1 − ½ · 0.96^(t ψ)), at the step that the record is set to."""
    old_step = _float(context.record["step"])
    step = 0 if context.is_fresh else context.clock.new(old_step)
    if step == old_step:
        return _float(value)
    beta, decay = _float(context.options["betas"][0]), _float(context.options["momentum_decay"])
    steps = np.arange(1, int(step) + 1)
    return float(np.prod(beta * (1 - 0.5 * 0.96 ** (steps * decay))))


def _float(value: Any) -> float:
    return float(whole(value)) if is_lazy(value) else float(value)


def _number(like: Any, value: float) -> LazyTensor | float | int:
    """A number as the record keeps it: a plain one, or a tensor."""
    if is_lazy(like):
        return Held(torch.full_like(whole(like), value))
    return type(like)(value)
