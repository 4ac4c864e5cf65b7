"""The options that a recipe can have: those of the commands that grow, and of `train`, by the same names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, get_type_hints

from ckptgrow.choices import GrowthOperator, Operator, OperatorName
from ckptgrow.growth.growth_options import GROWTH_OPTIONS
from ckptgrow.growth.request import StateRequest
from ckptgrow.recipes.typed_values import Options
from ckptgrow.train.growing_batches import GrowingBatches
from ckptgrow.train.settings import OPTIMIZER_OPTIONS, TrainSettings
from ckptgrow.train.train_recipes import RECIPES

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
OF_NEW_OPTIMIZERS = tuple(OPTIMIZER_OPTIONS)  # what groups of a checkpoint have already
# what training takes where it begins, and not where it goes on with what it has saved itself
OF_BEGINNINGS = ("reset", "step", "rewarm", "rewarm_new", "recipe", "init_from", *OF_NEW_OPTIMIZERS)
# what a run decides itself, or a stage has under a name of its own
SET_BY_RUN = (*PLACES_OF_GROWTH, "factor", "step", "rewarm")
OF_STAGES = (
    *(name for name in PLACES_OF_TRAINING if name not in ("export", "recipe")),
    *("step", "rewarm", "train_steps", "batch_size", "grad_accum", "seqlen", "lr"),
    *("schedule", "warmup_steps", "warmup_share", "growing"),
)
# as the command spells what `TrainSettings` has under other names; tokens, for the sizes that grow
OF_COMMAND: Mapping[str, Any] = {
    "adam_beta1": float, "adam_beta2": float, "adam_epsilon": float, "warmup_bsz": int, "warmup_seq": int,
}  # fmt: skip


def growth_options(operator: GrowthOperator, without: Sequence[str] = SET_BY_RUN) -> Options:
    """Every option of a growth that a stage's recipe can have, or all but some."""
    hints = {**get_type_hints(GROWTH_OPTIONS[operator]), **get_type_hints(StateRequest)}
    return Options({name: hint for name, hint in hints.items() if name not in without})


def train_options(without: Sequence[str] = OF_STAGES) -> Options:
    """Every option of `ckptgrow train` that all stages share, or one has, or all but some."""
    hints = get_type_hints(TrainSettings)
    return Options({one.name: hints[one.name] for one in fields(TrainSettings) if one.name not in without})


def typed_train_options(without: Sequence[str] = OF_STAGES) -> Options:
    """The same by the command's names too, as a plan has them for all stages or for one."""
    return Options({**train_options(without).types, **OF_COMMAND})


def train_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of training that somebody typed, as fields of `TrainSettings`."""
    found = {name: value for name, value in options.items() if name not in OF_COMMAND}
    if "adam_epsilon" in options:
        found["eps"] = options["adam_epsilon"]
    if "adam_beta1" in options or "adam_beta2" in options:
        usual = options.get("betas") or RECIPES[options.get("recipe", "modern")].betas
        found["betas"] = options.get("adam_beta1", usual[0]), options.get("adam_beta2", usual[1])
    sizes = options.get("warmup_bsz", 0), options.get("warmup_seq", 0)
    return {**found, "growing": GrowingBatches(*sizes)} if any(sizes) else found
