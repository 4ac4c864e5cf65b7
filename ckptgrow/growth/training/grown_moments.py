"""Optimizer records grow by the same algebra as gradients: first moments linearly, second moments by squares.

A factored second moment V = row · column / mean(row) (Adafactor) grows by its factors. Let s_out and s_in be the
factors of the gradient along its two axes. Then

    row'[j] = s_out[j]² · row[src j] · mean(s_in² · column[src]) / mean(column)       columns likewise

so that V' = s_out² · s_in² · V[src] in every entry. Where every coordinate has equally many copies, these are exactly
the factors that the optimizer would have in the grown model. Where copies are uneven, their product is an approximation
of rank one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ckptgrow.choices import FreshMomentRule
from ckptgrow.errors import OptimizerError, at
from ckptgrow.formats.bitsandbytes_records import CODE_MAPS
from ckptgrow.growth.growing import Growing
from ckptgrow.growth.grown_weights import grown_beside
from ckptgrow.growth.lineage import Descent
from ckptgrow.growth.tensors.blended_rows import blended, with_rare_rows
from ckptgrow.growth.tensors.factored_moments import Fill, grown_factor
from ckptgrow.growth.tensors.fresh_entries import averaged
from ckptgrow.growth.tensors.grown_tensors import gathered, own, scaled
from ckptgrow.growth.training.grown_bases import (
    check_bases,
    grown_bases,
    grown_products,
    rows_of_directions,
    squares_in,
)
from ckptgrow.growth.training.optimizer_table import row_of
from ckptgrow.growth.training.weight_sizes import WeightSizes
from ckptgrow.spaces.gather import Gather, TensorGrowth
from ckptgrow.state.optimizer_kinds import Entry
from ckptgrow.state.optimizer_state import OptimizerState, ParameterGroup
from ckptgrow.storage.tensors import InMemory, LazyTensor, Zeros, flattened, is_lazy, unflattened, whole

SQUARES: tuple[Entry, ...] = ("square", "row", "column")
EVERY: tuple[Entry, ...] = (*SQUARES, "gradient", "scaled gradient", "magnitude", "direction", "update")
FILLS: Mapping[FreshMomentRule, tuple[tuple[Entry, ...], Fill]] = {  # entries that are filled, and with what
    "zero": ((), gathered),
    "mean": (SQUARES, averaged),
    "rare": ((*SQUARES, "magnitude"), with_rare_rows),
    "blend": (EVERY, blended),
}
LARGEST_STEP = 2.0**53  # the last whole number that a float64 counts up to


@dataclass(frozen=True, kw_only=True)
class _Context:
    """What the growth of one parameter's record depends on."""

    descent: Descent
    record: Mapping[str, Any]
    options: Mapping[str, Any]
    growing: Growing
    sizes: WeightSizes
    has_group_step: bool  # the file has one step for all parameters of a group

    def fill(self, entry: Entry) -> Fill:
        """How an entry is gathered, and filled where it copies nothing."""
        filled, fill = FILLS[self.growing.fresh_moments]
        return fill if entry in filled and self.descent.growth.has_fresh else gathered

    @property
    def is_new(self) -> bool:
        """Whether the whole parameter has seen no gradient: in an identity, or in a copy that begins anew."""
        is_new_layer = self.descent.layer.kind != "old"
        return self.descent.is_in_new_layer or (is_new_layer and self.growing.request.begins_anew)

    def gather(self, entry: Entry) -> Gather:
        """How an entry's numbers come from the old ones."""
        growth, request = self.descent.growth, self.growing.request
        gather = growth.unscaled if request.moments == "unscaled" else _gather(entry, growth)
        return gather.begun_anew if request.begins_anew else gather

    def share(self, entry: Entry) -> float:
        """What an entry is of the old one where the layer writes a share of the residual stream."""
        if self.growing.request.moments == "unscaled":
            return 1.0
        # of two factors of a square each is a mean of squares
        power = {"gradient": 1, "scaled gradient": 1, "magnitude": 1, "square": 2, "row": 2, "column": 2}.get(entry, 0)
        return self.descent.share_of_gradient**power

    def step(self, old: float) -> float:
        """The parameter's own step (for bias correction) in the grown state.

        Never more than the gradients it has seen, where it has a step of its own.
        """
        if self.is_new and not self.has_group_step:
            return 0
        limit = self.growing.step
        return min(old, limit) if self.growing.moves and limit is not None else old


def grown_state(state: OptimizerState, growing: Growing, sizes: WeightSizes) -> OptimizerState:
    """The grown optimizer state, with the same groups, whose parameters are in the grown model's order.

    Raises OptimizerError for an optimizer, or an entry of a record, that the table does not know.
    """
    order = _Order.of(growing.lineage)
    groups: list[ParameterGroup] = []
    records: dict[str, dict[str, Any]] = {}
    for old_group in state.groups:
        kind = row_of(state, old_group).kind
        group = _at_step(order.grown(old_group), kind.clock, growing)
        groups.append(group)
        for descent in (growing.descent_of[name] for name in group.names):
            record = state.state.get(descent.old.name)
            if record is not None:
                context = _Context(
                    descent=descent,
                    record=record,
                    options=group.options,
                    growing=growing,
                    sizes=sizes,
                    has_group_step=state.has_group_steps,
                )
                if not (context.is_new and kind.begins_without):
                    records[descent.name] = {key: _grown_entry(kind.entries, key, context) for key in record}
    recorded = {name for name in order.old if name in state.state}
    left_out = [name for group in groups for name in group.names if growing.descent_of[name].old.name in recorded]
    if set(left_out) - records.keys():  # by numbers and shapes nobody could tell whose the others are
        groups = [replace(group, has_param_names=True) for group in groups]
    return replace(state, groups=tuple(groups), state=records)


@dataclass(frozen=True)
class _Order:
    """Which grown parameters come from each old one (`children`), and the places of all in both models' orders."""

    children: Mapping[str, Sequence[str]]
    old: Mapping[str, int]
    new: Mapping[str, int]

    @classmethod
    def of(cls, lineage: Sequence[Descent]) -> _Order:
        children: dict[str, list[str]] = {}
        for descent in lineage:
            children.setdefault(descent.old.name, []).append(descent.name)
        old = {descent.old.name: index for index, descent in reversed(list(enumerate(lineage)))}
        return cls(children, old, {descent.name: index for index, descent in enumerate(lineage)})

    def grown(self, group: ParameterGroup) -> ParameterGroup:
        """A group with the grown parameters, in model order where the old ones are.

        In other groups the old parameters keep their order, and those of new layers follow their sources.
        """
        names = [child for name in group.names for child in self.children[name]]
        if list(group.names) == sorted(group.names, key=self.old.__getitem__):
            names.sort(key=self.new.__getitem__)
        return replace(group, names=tuple(names))


def _at_step(group: ParameterGroup, clock: str | None, growing: Growing) -> ParameterGroup:
    """The group with its count of steps at the step from which the schedule goes on, never more than it has taken."""
    if clock is None or clock not in group.options or not growing.moves or growing.step is None:
        return group
    taken = group.options[clock]
    return group.with_options(**{clock: _number(taken, min(_float(taken), growing.step))})


def _grown_entry(entries: Mapping[str, Entry], key: str, context: _Context) -> Any:
    if key in CODE_MAPS:
        return context.record[key]
    entry, value, growth = entries[key], context.record[key], context.descent.growth
    if entry == "step":
        if not 0 <= _float(value) < LARGEST_STEP:
            raise OptimizerError(f"{key} of {context.descent.old.name} is {_float(value)}, expected a count of steps")
        return _number(value, context.step(_float(value)))
    if entry == "momentum product":
        return _number(value, _momentum_product(value, context))
    if entry == "reading":
        return value
    if entry in ("products", "bases", "square in bases"):
        return _grown_in_bases(entry, key, context)
    if entry == "weight size":
        ratio = 0.0 if context.is_new else context.sizes.ratio(context.descent)
        return _number(value, _float(value) * ratio)
    if value is None:
        return None  # a momentum that has seen no gradient
    if not is_lazy(value) or not value.dtype.is_floating_point:
        raise OptimizerError(
            f"{key} of {context.descent.old.name} is {str(value)[:40]}, expected a tensor of floating-point numbers; "
            "leave the optimizer out with ⟦reset optimizer⟧"
        )
    if entry not in ("row", "column") and len(value.shape) == 1 < len(growth.axes):
        return flattened(_grown_tensor(entries, key, _unflattened(key, value, context), context))
    return _grown_tensor(entries, key, value, context)


def _grown_in_bases(entry: Entry, key: str, context: _Context) -> Any:
    """What lies along the axes in bases; raises OptimizerError, which names the parameter, where it is not exact."""
    name, value, growth = context.descent.old.name, context.record[key], context.descent.growth
    gradient = context.gather("gradient")
    check_bases(name, context.options, context.record, gradient)
    if growth.is_identity and context.share("gradient") == 1:
        return value
    if context.share("gradient") != 1 or any(
        not np.allclose(square, scale**2)
        for square, scale in zip(growth.square.scales, growth.gradient.scales, strict=True)
    ):
        raise OptimizerError(
            f"{key} of {name} has no exact growth where copies have unequal gradients, expected whole multiples and "
            "layers of their old share; leave the optimizer out with ⟦reset optimizer⟧"
        )
    with at(f"{key} of {name}", OptimizerError):
        if entry == "products":
            return grown_products(value, gradient)
        if entry == "bases":
            return grown_bases(value, gradient)
        return squares_in(context.record["Q"], value, gradient)


def _unflattened(key: str, value: LazyTensor, context: _Context) -> LazyTensor:
    """An entry that the optimizer keeps as one vector (Prodigy) in its parameter's shape.

    Raises OptimizerError where it has only every nth number of it.
    """
    shape = context.descent.growth.old_shape
    if value.shape[0] != math.prod(shape):
        raise OptimizerError(
            f"{key} of {context.descent.old.name} has {value.shape[0]} numbers of {math.prod(shape)}, expected all of "
            "them (slice_p=1): growth does not know those between; leave the optimizer out with ⟦reset optimizer⟧"
        )
    return unflattened(value, shape)


def _grown_tensor(entries: Mapping[str, Entry], key: str, value: LazyTensor, context: _Context) -> LazyTensor:
    entry, growth = entries[key], context.descent.growth
    if entry == "weight":
        return grown_beside(context.descent, context.growing, value) if value.shape else own(value)
    if context.is_new:
        shape = value.shape if growth.is_identity else growth.gradient.shape
        return Zeros(shape, value.dtype)
    if growth.is_identity:
        factor = _update_ratio(context) if entry == "update" else context.share(entry)
        return own(value) if factor == 1 else scaled(value, factor)
    if entry == "row of directions":
        with at(f"{key} of {context.descent.old.name}", OptimizerError):
            return rows_of_directions(value, context.gather("gradient"))
    if entry in ("row", "column"):
        other = next(name for name, kind in entries.items() if kind in ("row", "column") and name != key)
        return grown_factor(entry, value, context.record[other], context.gather(entry), context.fill(entry))
    grown = context.fill(entry)(value, context.gather(entry))
    return scaled(grown, _update_ratio(context)) if entry == "update" else grown


def _gather(entry: Entry, growth: TensorGrowth) -> Gather:
    """The algebra's gather of an entry that is a tensor."""
    match entry:
        case "square" | "row" | "column":
            return growth.square
        case "magnitude":
            return growth.magnitude
        case "direction" | "update":
            return growth.direction
        case _:
            return growth.gradient


def _update_ratio(context: _Context) -> float:
    """By how much updates grow at the same learning rate: Adafactor's may be in units of the weight."""
    is_scaled = context.options.get("scale_parameter") and context.growing.request.moments == "algebra"
    return context.sizes.ratio(context.descent) if is_scaled else 1.0


def _momentum_product(value: Any, context: _Context) -> float:
    """NAdam's Π μ_t, μ_t = β₁ (1 − ½ · 0.96^(t ψ)), at the step that the record is set to."""
    old_step = _float(context.record["step"])
    step = context.step(old_step)
    if step == old_step:
        return _float(value)
    beta, decay = _float(context.options["betas"][0]), _float(context.options["momentum_decay"])
    steps = np.arange(1, int(step) + 1)
    return float(np.prod(beta * (1 - 0.5 * 0.96 ** (steps * decay))))


def _float(value: Any) -> float:
    return float(whole(value)) if is_lazy(value) else float(value)


def _number(like: Any, value: float) -> LazyTensor | float | int:
    """A number in the form that the record has: a plain number, or a tensor."""
    if is_lazy(like):
        return InMemory(torch.full_like(whole(like), value))
    return type(like)(value)
