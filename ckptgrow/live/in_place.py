"""Growth in place: objects that a trainer holds on to become the grown ones, and stay where they are.

Only what torch documents is touched: a module's attributes and children, an optimizer's groups and state, a scheduler's
state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from ckptgrow.live.live_growth import LiveGrowth
from ckptgrow.live.live_state import unwrapped_optimizer, unwrapped_scheduler
from ckptgrow.live.rebuilt_training import become_scheduler
from ckptgrow.live.rewarming import Rewarming, end_rewarming


def become(
    model: PreTrainedModel, optimizers: Sequence[Any], schedulers: Sequence[Any], grown: LiveGrowth
) -> tuple[Rewarming, ...]:
    """Makes the objects that were grown the grown ones: whoever refers to them, or wraps them, has these from now on.

    What refers to single parameters or modules inside the model (DistributedDataParallel, hooks) must be made anew.
    Returns what lets the rates rise again, over the objects that stay.
    """
    _become_model(model, grown.model)
    for old, new in zip(map(unwrapped_optimizer, optimizers), grown.optimizers, strict=True):
        old.param_groups[:] = new.param_groups
        old.state.clear()
        old.state.update(new.state)
        end_rewarming(old)
    for old, new in zip(map(unwrapped_scheduler, schedulers), grown.schedulers, strict=True):
        become_scheduler(old, new)
    pairs = zip(map(unwrapped_optimizer, optimizers), grown.rewarmings, strict=False)  # none, or one for each
    return tuple(Rewarming(old, one.steps) for old, one in pairs)


def _become_model(old: torch.nn.Module, new: torch.nn.Module) -> None:
    own = [*new.named_parameters(recurse=False), *new.named_buffers(recurse=False), *new.named_children()]
    plain = [(name, one) for name, one in vars(new).items() if not name.startswith("_")]
    for name, one in [*plain, *own]:
        setattr(old, name, one)
