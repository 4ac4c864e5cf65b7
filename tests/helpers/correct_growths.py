"""Growths, schedules and a GPT-2's checkpoint, whose every combination is correct."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.optim import lr_scheduler as schedulers
from transformers import GPT2LMHeadModel

import ckptgrow
from ckptgrow import StateRequest
from tests.helpers.gpt2 import perturbed_gpt2, token_batches, train
from tests.helpers.lightning_files import save_lightning

TINY: dict[str, Any] = {"n_embd": 8, "n_head": 2, "n_inner": 12, "n_layer": 2}
STEPS = 6
ScheduleFor = Callable[[torch.optim.Optimizer], Any]
SCHEDULES: dict[str, ScheduleFor] = {
    "none": lambda optimizer: None,
    "linear": lambda optimizer: schedulers.LinearLR(optimizer, 0.1, total_iters=10),
    "cosine": lambda optimizer: schedulers.CosineAnnealingLR(optimizer, 20),
    "restarts": lambda optimizer: schedulers.CosineAnnealingWarmRestarts(optimizer, 4, 2),
    "step": lambda optimizer: schedulers.StepLR(optimizer, 2, 0.5),
    "multi": lambda optimizer: schedulers.MultiStepLR(optimizer, [1, 3, 3, 8], 0.5),
    "exponential": lambda optimizer: schedulers.ExponentialLR(optimizer, 0.9),
    "polynomial": lambda optimizer: schedulers.PolynomialLR(optimizer, 20, 2.0),
    "constant": lambda optimizer: schedulers.ConstantLR(optimizer, 0.3, 4),
    "one cycle": lambda optimizer: schedulers.OneCycleLR(optimizer, [2e-3, 1e-3], total_steps=20),
    "cyclic": lambda optimizer: schedulers.CyclicLR(optimizer, [1e-4, 2e-4], [1e-3, 2e-3], 4, mode="triangular2"),
    "sequence": lambda optimizer: schedulers.SequentialLR(
        optimizer,
        [schedulers.LinearLR(optimizer, 0.1, total_iters=3), schedulers.CosineAnnealingLR(optimizer, 20)],
        [3],
    ),
    "chain": lambda optimizer: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(optimizer, 0.1, 4), schedulers.ExponentialLR(optimizer, 0.9)], optimizer
    ),
    "averaging": lambda optimizer: torch.optim.swa_utils.SWALR(optimizer, 1e-4, 4),
}


def scheduled_checkpoint(path: Path, schedule_for: ScheduleFor, **extra: Any) -> Path:
    """A GPT-2 after some steps of AdamW in two groups."""
    model, optimizer, schedule = _trained(schedule_for)
    return save_lightning(path, model, [optimizer], [schedule] if schedule else [], global_step=STEPS, **extra)


@cache
def _trained(schedule_for: ScheduleFor) -> tuple[GPT2LMHeadModel, torch.optim.Optimizer, Any]:
    model = perturbed_gpt2(**TINY)
    decayed = [one for one in model.parameters() if one.dim() > 1]
    others = [one for one in model.parameters() if one.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    schedule = schedule_for(optimizer)
    for tokens in token_batches(STEPS):
        train(model, optimizer, [tokens])
        if schedule is not None:
            schedule.step()
    return model, optimizer, schedule


Growth = Callable[[Path, Path, StateRequest], Any]


GROWTHS: dict[str, Growth] = {
    "width": lambda a, b, request: ckptgrow.width(a, b, request=request),
    "tile": lambda a, b, request: ckptgrow.width(a, b, how="tile", noise=0, request=request),
    "diagonal": lambda a, b, request: ckptgrow.width(a, b, factor=3, noise=0, request=request),
    "noise": lambda a, b, request: ckptgrow.width(a, b, noise=0.5, request=request),
    "append": lambda a, b, request: ckptgrow.depth(a, b, place="append", request=request),
    "zero-norm": lambda a, b, request: ckptgrow.depth(a, b, new="zero-norm", request=request),
}
