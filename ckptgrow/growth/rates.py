"""Learning rates after growth.

`keep` leaves every group as it is: effective matrices then move faster. `mup` keeps the trajectory: in the subspace in
which the copies agree, the grown model's updates are the old ones. With n the number of copies, f the write and b the
read of a tensor's output and input spaces:

    Adam, AdamW      lr'/lr = f_out / (n_in · f_in)              eps'/eps = b_out · f_in
    SGD, momentum    lr'/lr = n_out · f_out² / (n_in · f_in²)
    weight decay     wd'/wd = lr/lr'                             (decoupled; also SGD's)

Source: derived here from equal function and equal update; the width scaling is that of Yang & Hu et al., "Tensor
Programs V", arXiv 2203.03466.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from ckptgrow.checkpoints.optimizer import OptimizerState, ParameterGroup
from ckptgrow.checkpoints.tensors import Held, LazyTensor, whole
from ckptgrow.errors import OptimizerError, RequestError
from ckptgrow.growth.parameters import Descent
from ckptgrow.spaces.gather import TensorGrowth
from ckptgrow.spaces.growth import FloatVector

LrRule = Literal["keep", "mup"]
LR_OPTIONS = ("lr", "initial_lr", "max_lr", "min_lr")


@dataclass(frozen=True)
class Ratio:
    """New over old learning rate and epsilon."""

    lr: float
    eps: float


@dataclass(frozen=True)
class Origin:
    """Where a group of the grown optimizer comes from: the old group, and its lr's ratio."""

    group: int
    ratio: float


UNCHANGED = Ratio(1.0, 1.0)


def with_rates(
    state: OptimizerState, lineage: Sequence[Descent], rule: LrRule, where: str
) -> tuple[OptimizerState, tuple[Origin, ...]]:
    """The grown optimizer's groups under a rule, and each group's origin (for the schedulers).

    Raises OptimizerError for an optimizer, RequestError for a growth, for which `mup` has no rule.
    """
    if rule == "keep":
        return state, tuple(Origin(index, 1.0) for index in range(len(state.groups)))
    growth_of = {one.name: one.growth for one in lineage}
    groups: list[ParameterGroup] = []
    origins: list[Origin] = []
    for index, group in enumerate(state.groups):
        ratio_of = _rule_for(group, where)
        parts: dict[Ratio, list[str]] = {}
        for name in group.names:
            parts.setdefault(ratio_of(name, growth_of[name]), []).append(name)
        for ratio, names in parts.items():
            groups.append(ParameterGroup(_scaled_options(group.options, ratio), tuple(names), has_param_names=True))
            origins.append(Origin(index, ratio.lr))
    return OptimizerState(tuple(groups), state.state, state.other), tuple(origins)


def _rule_for(group: ParameterGroup, where: str) -> Callable[[str, TensorGrowth], Ratio]:
    options = group.options
    if "betas" in options and "eps" in options:
        if options.get("decoupled_weight_decay") is False and options.get("weight_decay"):
            raise OptimizerError(
                f"{where}: Adam with coupled weight decay has no exact lr rule, expected AdamW or weight decay 0; "
                "use --lr-rule keep"
            )
        return _adam
    if "momentum" in options and "dampening" in options:
        return _sgd
    raise OptimizerError(
        f"{where}: no lr rule known for this optimizer, expected Adam, AdamW or SGD; use --lr-rule keep"
    )


def _adam(name: str, growth: TensorGrowth) -> Ratio:
    sides = _Sides.of(name, growth)
    return Ratio(sides.write_out / (sides.copies_in * sides.write_in), sides.read_out * sides.write_in)


def _sgd(name: str, growth: TensorGrowth) -> Ratio:
    sides = _Sides.of(name, growth)
    return Ratio(sides.copies_out * sides.write_out**2 / (sides.copies_in * sides.write_in**2), 1.0)


@dataclass(frozen=True)
class _Sides:
    """A tensor's growth in five numbers; only where each is one number is there one lr for the tensor."""

    write_out: float
    read_out: float
    copies_out: float
    write_in: float
    copies_in: float

    @classmethod
    def of(cls, name: str, growth: TensorGrowth) -> _Sides:
        def one(role: str, vectors: Callable[[Any], FloatVector]) -> float:
            values = [np.unique(vectors(axis.growth)) for axis in growth.axes if axis.role == role]
            if any(len(distinct) > 1 for distinct in values):
                raise RequestError(
                    f"--lr-rule mup: {name} grows by uneven copies, so no single lr keeps its trajectory, expected a "
                    "whole multiple of the old size; use --lr-rule keep"
                )
            return math.prod(float(distinct[0]) for distinct in values)

        return cls(
            one("out", lambda space: space.write),
            one("out", lambda space: space.read),
            one("out", lambda space: space.num_copies),
            one("in", lambda space: space.write),
            one("in", lambda space: space.num_copies),
        )


def _scaled_options(options: Mapping[str, Any], ratio: Ratio) -> dict[str, Any]:
    scaled = {key: _times(value, ratio.lr) if key in LR_OPTIONS else value for key, value in options.items()}
    if "eps" in scaled:
        scaled["eps"] = _times(scaled["eps"], ratio.eps)
    if scaled.get("weight_decay"):
        scaled["weight_decay"] = _times(scaled["weight_decay"], 1.0 / ratio.lr)
    return scaled


def _times(value: Any, factor: float) -> Any:
    """A learning rate may be a number or, for capturable optimizers, a tensor."""
    if isinstance(value, LazyTensor):
        return Held(torch.mul(whole(value), factor))
    return value * factor
