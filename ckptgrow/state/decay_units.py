"""In which unit an optimizer's weight decay is: of its learning rate, as torch's have it, or of the rate it began with.

    p ← p · (1 − lr · weight_decay)                   torch's AdamW
    p ← p · (1 − lr / initial_lr · weight_decay)      Composer's DecoupledAdamW, llm-foundry's DecoupledLionW

The first with weight_decay / initial_lr is the second. Their groups look alike: a file of Composer's tells the class.

Source: MosaicML, Composer 0.32, `optim/decoupled_weight_decay.py`; llm-foundry 0.22, `optim/lion.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ckptgrow.errors import OptimizerError
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.places import Places
from ckptgrow.state.optimizer_kinds import name_of
from ckptgrow.state.optimizer_state import OptimizerState, ParameterGroup

DECOUPLED = "Decoupled"  # with which the names of these classes begin
OF_TORCHS_WAY = ("AdamW", "Lion")  # which shrink weights by the rate times their decay


def decoupled_classes(checkpoint: Checkpoint) -> tuple[str | None, ...]:
    """For each optimizer the class whose decay is in units of the first rate; None where it has another."""
    places = checkpoint.layout.optimizers if isinstance(checkpoint.layout, Places) else ()
    words = [str(keys[-1]) if keys else "" for keys in places]
    missing = [""] * (len(checkpoint.optimizers) - len(words))
    return tuple(word if word.startswith(DECOUPLED) else None for word in (*words, *missing))


def with_torchs_decay(optimizer: OptimizerState, decoupled: str) -> tuple[OptimizerState, list[str]]:
    """The state of such a class with its weight decay in units of the rate, and what became of it.

    Raises OptimizerError where no optimizer whose decay follows its rate shrinks weights so.
    """
    if not any(group.options.get("weight_decay") for group in optimizer.groups):
        return optimizer, []
    torchs = name_of(optimizer)
    if torchs not in OF_TORCHS_WAY:
        raise OptimizerError(f"{decoupled} shrinks weights by weight_decay · lr / initial_lr, which torch's does not")
    groups: list[ParameterGroup] = []
    told: list[str] = []
    for group in optimizer.groups:
        decay, before = _by_rate(group.options), group.options.get("weight_decay")
        if decay is None:
            raise OptimizerError(f"{decoupled} with initial_lr 0 shrinks weights by {before:g}, whatever the rate is")
        groups.append(group.with_options(weight_decay=decay))
        if before:
            told.append(f"weight_decay {before:g} of {decoupled} is {decay:g} in {torchs}, which multiplies it by lr")
    return replace(optimizer, groups=tuple(groups)), told


def _by_rate(options: Mapping[str, Any]) -> float | None:
    """The weight decay of such a group in units of the rate; None where no other keeps it, because it began with none.

    >>> _by_rate({"lr": 0.5, "initial_lr": 2.0, "weight_decay": 1.0})
    0.5
    """
    decay: float = options.get("weight_decay") or 0.0
    first: float = options.get("initial_lr", options.get("lr")) or 0.0  # the class takes its rate for the first one
    if not decay:
        return 0.0
    return decay / first if first else None
