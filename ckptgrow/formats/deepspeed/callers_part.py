"""What a file of model states holds besides DeepSpeed's own: Lightning's checkpoint without its weights and moments.

Source: Lightning, `strategies/deepspeed.py` (`save_checkpoint`, whose checkpoint is DeepSpeed's `client_state`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.lightning import GROWTH_KEY, from_tree, tree_of
from ckptgrow.storage.tree import Tree

LIGHTNINGS_KEY = "pytorch-lightning_version"
PARTS = ("state_dict", "optimizer_states")  # which Lightning leaves to DeepSpeed
OWN_KEYS = re.compile(
    r"module|buffer_names|optimizer|param_shapes|frozen_param_\w+|shared_params|lr_scheduler|data_sampler|random_ltd"
    r"|\w*tensor_module_names|skipped_steps|global_(steps|samples)|[dm]p_world_size|checkpoint_parallel_dimensions"
    r"|ds_\w+|universal_checkpoint_info|num_experts|user_model"
)


@dataclass(frozen=True)
class CallersPart:
    """Whether it is Lightning's, and whether DeepSpeed keeps a scheduler, its own or Lightning's again."""

    is_lightnings: bool
    keeps_scheduler: bool

    @classmethod
    def of(cls, model: Mapping[str, Any]) -> CallersPart:
        """From a file of model states."""
        return cls(LIGHTNINGS_KEY in model, isinstance(model.get("lr_scheduler"), dict))

    def without(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """A file without what is Lightning's; of others nothing is known, so it stays."""
        return {key: one for key, one in model.items() if not self.is_lightnings or OWN_KEYS.fullmatch(key)}

    def told(self, checkpoint: Checkpoint, model: Mapping[str, Any]) -> Checkpoint:
        """With what Lightning says: its config, schedulers, step, epoch, place in the data and history."""
        if not self.is_lightnings:
            return checkpoint
        own = {key: one for key, one in model.items() if not OWN_KEYS.fullmatch(key)}
        said = from_tree({**own, "state_dict": dict(checkpoint.tensors)}, checkpoint.path, checkpoint.kind)
        return replace(
            checkpoint,
            config=said.config or checkpoint.config,
            schedulers=said.schedulers or checkpoint.schedulers,
            scaler=said.scaler,
            position=said.position,
            growth=said.growth,
            rest={**said.rest, **checkpoint.rest},
        )

    def tree(self, checkpoint: Checkpoint) -> dict[str, Tree]:
        """What Lightning has in a file of model states, a history of growths among it where there is one."""
        if not self.is_lightnings:
            return {}
        files = {key for key in checkpoint.rest if key.endswith(".pt")}
        empty = () if checkpoint.growth.log else (GROWTH_KEY,)
        tree = tree_of(replace(checkpoint, tensors={}, optimizers=()))
        return {key: one for key, one in tree.items() if key not in (*PARTS, *empty, *files)}
