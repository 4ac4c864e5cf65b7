"""The configs behind the sizes of the staged-training script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptgrow.errors import ConfigError
from ckptgrow.families.tables.gpt2 import FAMILY as GPT2

GPT2_VOCABULARY = 50257  # the staged-training script starts from the released GPT-2's config


def original_config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The config behind the staged-training script's `size` and `seqlen`; raises ConfigError for an unknown size."""
    size = arguments.get("size")
    if size not in GPT2.original_sizes:
        raise ConfigError(
            f"{size!r}: no size of the staged-training script, expected one of "
            f"{', '.join(sorted(GPT2.original_sizes))}; pass a transformers config with ⟦config FILE⟧"
        )
    sizes = dict(GPT2.original_sizes[str(size)])
    if arguments.get("layers") is not None:
        sizes["n_layer"] = arguments["layers"]
    return {"model_type": "gpt2", "vocab_size": GPT2_VOCABULARY, "n_positions": arguments["seqlen"], **sizes}
