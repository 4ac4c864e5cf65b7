"""Adapters, as PEFT trains beside a model that stays as it is: these are no model, and cannot grow by themselves.

Source of the names: PEFT's `save_pretrained`, and the modules that it puts in the place of the model's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ckptgrow.errors import CheckpointError, listing

FILES = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt", "lit_model.pth.lora")
BESIDE = re.compile(r"adapter_(model|\d+)\.(pt|bin)")  # torchtune's, beside the weights that have it in them
WORDS = frozenset({"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", "base_layer"})
MODELS = ("model*.safetensors*", "pytorch_model*", "*model-*.bin", "lit_model.pth")
LITGPTS = "merge it into its model first (litgpt merge_lora DIR)"
WAY_OUT = "merge it into its model first (PEFT's merge_and_unload, then save_pretrained)"


def check_is_no_adapter(path: Path) -> None:
    """Raises CheckpointError for a directory with an adapter and no model."""
    found = [name for name in FILES if (path / name).is_file()]
    if found and not any(one for pattern in MODELS for one in path.glob(pattern)):
        way_out = LITGPTS if found[0] == FILES[-1] else WAY_OUT
        raise CheckpointError(f"{path}: holds an adapter ({found[0]}) alone, expected a whole model; {way_out}")


def check_merged(path: Path, names: Iterable[str]) -> None:
    """Raises CheckpointError for a model's tensors with those of an adapter among them."""
    found = [name for name in names if not WORDS.isdisjoint(name.split("."))]
    if found:
        raise CheckpointError(f"{path}: holds an adapter's {listing(found)}, expected a whole model; {WAY_OUT}")
