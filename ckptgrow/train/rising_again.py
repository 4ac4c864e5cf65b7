"""The rise of the rates after a growth in a callback's run, gone on with where the run goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ckptgrow.formats.growth_log import Rewarm
from ckptgrow.live.live_state import unwrapped_optimizer
from ckptgrow.live.rewarming import Rewarming


def states_of(rewarmings: Sequence[Rewarming]) -> list[dict[str, int]]:
    """Of those that are not over, one for each optimizer, as checkpoints keep them."""
    return [one.state_dict() for one in rewarmings if not one.is_over]


def gone_on(optimizers: Sequence[Any], states: Sequence[Mapping[str, int]]) -> tuple[Rewarming, ...]:
    """Over optimizers that were built anew."""
    pairs = zip(map(unwrapped_optimizer, optimizers), states, strict=False)  # none, or one for each
    return tuple(Rewarming(one, state["steps"], state["done"]) for one, state in pairs)


def states_at(rewarm: Rewarm | None, step: int, num_optimizers: int) -> list[dict[str, int]]:
    """The same by a growth's record, at a step of the run that all optimizers' steps count for."""
    if rewarm is None or not num_optimizers or not 0 <= step - rewarm["start"] < rewarm["steps"] * num_optimizers:
        return []
    done = (step - rewarm["start"]) // num_optimizers
    return [{"steps": rewarm["steps"], "done": done}] * num_optimizers
