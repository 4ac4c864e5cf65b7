"""Optimizer records grow by the same algebra as gradients: first moments linearly, second moments by squares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from ckptgrow.checkpoints.optimizer import OptimizerState, ParameterGroup
from ckptgrow.checkpoints.tensors import Held, LazyTensor, Zeros, whole
from ckptgrow.errors import OptimizerError, listing
from ckptgrow.growth.parameters import Descent
from ckptgrow.growth.tensors import Grown, Guard

Rule = Literal["gradient", "square", "step"]

# What each key of a record is, in terms of the gradient g. Sources: Kingma & Ba, arXiv 1412.6980 (Adam); Loshchilov &
# Hutter, arXiv 1711.05101 (AdamW); Reddi, Kale & Kumar, arXiv 1904.09237 (amsgrad); Sutskever et al., ICML 2013 (SGD).
RULES: Mapping[str, Rule] = {
    "exp_avg": "gradient",
    "exp_avg_sq": "square",
    "max_exp_avg_sq": "square",
    "momentum_buffer": "gradient",
    "step": "step",
}


@dataclass(frozen=True)
class StepClock:
    """The optimizer's own clock (bias correction) after growth: set back to `limit` where that is earlier."""

    limit: int | None

    def new(self, step: float) -> float:
        """A parameter's step in the grown state; it never pretends to have seen more gradients than it has."""
        return step if self.limit is None else min(step, self.limit)


def check_keys(state: OptimizerState, where: str) -> None:
    """Raises OptimizerError for record keys that no rule covers."""
    unknown = [key for key in state.state_keys if key not in RULES]
    if unknown:
        raise OptimizerError(
            f"{where}: no rule for the state {listing(unknown)}, expected {listing(RULES)}; leave the optimizer out "
            "with --reset optimizer"
        )


def grown_state(
    state: OptimizerState, lineage: Sequence[Descent], clock: StepClock, where: str, guard: Guard
) -> OptimizerState:
    """The grown optimizer state: the same groups, their parameters in the grown model's order."""
    check_keys(state, where)
    children: dict[str, list[Descent]] = {}
    for one in lineage:
        children.setdefault(one.old.name, []).append(one)
    position = {one.name: index for index, one in enumerate(lineage)}
    old_position = {one.old.name: index for index, one in reversed(list(enumerate(lineage)))}
    groups = tuple(_grown_group(group, children, position, old_position) for group in state.groups)
    records: dict[str, dict[str, Any]] = {}
    for name in (name for group in groups for name in group.names):
        one = lineage[position[name]]
        record = state.state.get(one.old.name)
        if record is not None:
            records[name] = {
                key: _grown_entry(key, value, one, clock, partial(guard, where=f"{where}: {key} of {one.old.name}"))
                for key, value in record.items()
            }
    return OptimizerState(groups, records, state.other)


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


def _grown_entry(
    key: str, value: Any, one: Descent, clock: StepClock, guarded: Callable[[LazyTensor], LazyTensor]
) -> LazyTensor | float | int | None:
    is_fresh = one.layer.kind in ("zero-output", "zero-norm")
    if RULES[key] == "step":
        return _grown_step(value, clock, is_fresh=is_fresh)
    if not isinstance(value, LazyTensor):
        return value
    gather = one.growth.gradient() if RULES[key] == "gradient" else one.growth.square()
    if is_fresh:
        return Zeros(gather.shape, value.dtype)
    return guarded(value) if one.growth.is_identity else Grown(guarded(value), gather)


def _grown_step(value: Any, clock: StepClock, *, is_fresh: bool) -> LazyTensor | float | int:
    """A fresh layer starts at step 0: a zero moment with an old step would make its first update far too large."""
    if not isinstance(value, LazyTensor):
        return type(value)(0 if is_fresh else clock.new(value))
    tensor = whole(value)
    return Held(torch.full_like(tensor, 0 if is_fresh else clock.new(tensor.item())))
