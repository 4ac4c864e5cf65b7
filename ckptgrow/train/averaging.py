"""An exponential moving average of the weights, kept beside them: a ← d · a + (1 − d) · w after every optimizer step.

In checkpoints it lies under `ema.`, as torch's `AveragedModel` has it, so that it grows with the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ckptgrow.train.adoption import MODULE

AVERAGE = "ema."  # what LanguageModel calls it
_INNER, _COUNTER = f"{AVERAGE}module.", f"{AVERAGE}n_averaged"


def average_of(model: torch.nn.Module, decay: float) -> AveragedModel:
    """A copy of the model that follows it, with d = `decay` in (0, 1); the first step makes it equal."""
    found = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    found.requires_grad_(False)
    return found


def follow(optimizer: torch.optim.Optimizer, average: AveragedModel, model: torch.nn.Module) -> None:
    """Updates the average after every step of the optimizer, behind the hooks that it has by now."""
    optimizer.register_step_post_hook(lambda *_: average.update_parameters(model))


def with_average(weights: Mapping[str, Any], *, is_wanted: bool) -> dict[str, Any]:
    """A checkpoint's tensors without an average, or with one: what it has, else one that begins at its weights."""
    alone = {name: one for name, one in weights.items() if not name.startswith(AVERAGE)}
    if not is_wanted:
        return alone
    if len(alone) < len(weights):
        return dict(weights)
    begun = {_INNER + name.removeprefix(MODULE): one for name, one in alone.items()}
    return {**alone, **begun, _COUNTER: torch.tensor(0)}
