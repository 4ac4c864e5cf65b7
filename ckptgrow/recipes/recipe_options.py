"""The options that a recipe can have: those of the commands that grow, and of `train`, by the same names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import get_type_hints

from ckptgrow.choices import GrowthOperator, Operator, OperatorName
from ckptgrow.growth.deepening import depth
from ckptgrow.growth.lengthening import positions
from ckptgrow.growth.request import GrowthResult, StateRequest
from ckptgrow.growth.upcycling import experts
from ckptgrow.growth.vocabulary import vocab
from ckptgrow.growth.widening import width
from ckptgrow.recipes.typed_values import Options
from ckptgrow.train.settings import TrainSettings

GROWTHS: Mapping[GrowthOperator, Callable[..., GrowthResult]] = {
    "width": width,
    "depth": depth,
    "vocab": vocab,
    "positions": positions,
    "experts": experts,
}
OPERATORS: Mapping[OperatorName, tuple[Operator, ...]] = {
    "width": ("width",),
    "depth": ("depth",),
    "both": ("width", "depth"),
}
STATE_OPTIONS = frozenset(one.name for one in fields(StateRequest))  # of a growth: what the training state becomes
PLACES_OF_GROWTH = ("source", "target", "request", "progress", "return", "force", "config", "max_shard_bytes")
PLACES_OF_TRAINING = (
    "data",
    "out",
    "config",
    "resume",
    "init_from",
    "dialect",
    "devices",
    "num_nodes",
    "until_slope",
    "stop_at",
    "until_loss",
    "recipe",
    "export",
)
OF_BEGINNINGS = (
    "reset",
    "step",
    "rewarm",
    "rewarm_new",
)  # what training takes right after a growth alone
# what a run decides itself, or a stage has under a name of its own
SET_BY_RUN = (*PLACES_OF_GROWTH, "factor", "step", "rewarm")
OF_STAGES = (
    *(name for name in PLACES_OF_TRAINING if name != "export"),
    *("reset", "step", "rewarm", "train_steps", "batch_size", "grad_accum", "seqlen", "lr"),
    *("schedule", "warmup_steps", "warmup_share", "growing"),
)


def growth_options(operator: GrowthOperator, without: Sequence[str] = SET_BY_RUN) -> Options:
    """Every option of a growth that a stage's recipe can have, or all but some."""
    hints = get_type_hints(GROWTHS[operator])
    names = [name for name in inspect.signature(GROWTHS[operator]).parameters if name not in without]
    state = {name: hint for name, hint in get_type_hints(StateRequest).items() if name not in without}
    return Options({**{name: hints[name] for name in names}, **state})


def train_options(without: Sequence[str] = OF_STAGES) -> Options:
    """Every option of `ckptgrow train` that all stages share, or one has, or all but some."""
    hints = get_type_hints(TrainSettings)
    return Options({one.name: hints[one.name] for one in fields(TrainSettings) if one.name not in without})
