"""Stored moments against what the measured scales of gradients demand, and every parameter's step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ckptgrow.checkpoints.optimizer import OptimizerState
from ckptgrow.checkpoints.tensors import LazyTensor, whole
from ckptgrow.verification.gradients import GradientScale
from ckptgrow.verification.pair import Link, Pair
from ckptgrow.verification.precision import STORED_TOLERANCES, coarsest
from ckptgrow.verification.weights import snapped

ROUNDING = 1e-12  # of sums in float64
# The power of the gradient that each state is made of.
POWERS = {"exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2, "momentum_buffer": 1}


@dataclass(frozen=True)
class MomentErrors:
    """Relative errors by "key of parameter", and what else is wrong."""

    errors: Mapping[str, float]
    problems: list[str]
    tolerance: float


def moment_errors(pair: Pair, scales: Mapping[str, GradientScale]) -> MomentErrors:
    """Compares every record of every optimizer."""
    errors: dict[str, float] = {}
    problems: list[str] = []
    dtypes: set[torch.dtype] = set()
    limit = _step_limit(pair)
    for small, grown in zip(pair.small.optimizers, pair.grown.optimizers, strict=False):
        for name in grown.names:
            link = pair.links[name]
            old, new = small.state.get(link.small.name), grown.state.get(name)
            if old is None or new is None or set(old) != set(new):
                if old != new:
                    problems.append(f"the state of {name} holds {_keys(new)}, expected {_keys(old)}")
                continue
            for key in old:
                if key == "step":
                    problems += _step_problem(name, old[key], new[key], link, limit)
                elif key in POWERS and isinstance(new[key], LazyTensor):
                    dtypes |= {old[key].dtype, new[key].dtype}
                    errors[f"{key} of {name}"] = _error(link, old[key], new[key], key, scales.get(name), old)
    if len(pair.small.optimizers) != len(pair.grown.optimizers):
        problems.append(f"{len(pair.grown.optimizers)} optimizers, expected {len(pair.small.optimizers)}")
    return MomentErrors(errors, problems, STORED_TOLERANCES[coarsest(dtypes)])


def _error(
    link: Link,
    old: LazyTensor,
    new: LazyTensor,
    key: str,
    scale: GradientScale | None,
    record: Mapping[str, Any],
) -> float:
    found = whole(new).double()
    if link.fresh is not None or scale is None:
        return float(found.abs().max())
    new_entries = float(found.abs().sum())
    found = link.copied_part(found)
    if link.is_padded and new_entries - float(found.abs().sum()) > ROUNDING * new_entries:
        return 1.0  # entries that have seen no gradient hold something
    small = link.spread(whole(old).double())
    dead = scale.factors is None
    factor = torch.tensor(_own_factor(small, found, POWERS[key]), dtype=found.dtype) if dead else scale.at(link)
    expected = factor ** POWERS[key] * small
    largest = float(expected.abs().max())
    difference = float((found - expected).abs().max())
    return difference / largest if largest > 0 else difference


def _own_factor(small: torch.Tensor, found: torch.Tensor, power: int) -> float:
    """Where the gradient is zero by nature, its leftovers must still scale by one simple factor."""
    energy = float(small.square().sum())
    ratio = float((small * found).sum()) / energy if energy > 0 else 1.0
    return snapped(max(ratio, 0.0) ** (1 / power)) if power > 1 else snapped(ratio)


def _step_limit(pair: Pair) -> int | None:
    """The step that the schedule was set to, where growth moved it."""
    old, new = pair.small.checkpoint.global_step, pair.grown.checkpoint.global_step
    return new if old != new else None


def _step_problem(name: str, old: Any, new: Any, link: Link, limit: int | None) -> list[str]:
    before, after = (float(whole(value)) if isinstance(value, LazyTensor) else float(value) for value in (old, new))
    expected = 0.0 if link.fresh is not None else before if limit is None else min(before, limit)
    return [] if after == expected else [f"step of {name} is {after:g}, expected {expected:g}"]


def _keys(record: Mapping[str, Any] | None) -> str:
    return "nothing" if record is None else ", ".join(sorted(record))


def has_state(optimizers: tuple[OptimizerState, ...]) -> bool:
    """Whether there is any state to judge."""
    return any(state.state for state in optimizers)
