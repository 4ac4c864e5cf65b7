"""A dialect that only its user knows, as a file: litgpt's Llama under names of nobody else's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

LAYER = "model.layers.{layer}."
QKV = [f"{LAYER}self_attn.{letter}_proj.weight" for letter in "qkv"]
MINE: dict[str, Any] = {
    "name": "mine",
    "model_type": "llama",
    "rows": [
        {"theirs": "out.weight", "ours": "lm_head.weight"},
        {"theirs": "tokens.weight", "ours": "model.embed_tokens.weight"},
        {"theirs": "blocks.{layer}.norm_1.weight", "ours": LAYER + "input_layernorm.weight"},
        {"theirs": "blocks.{layer}.attn.qkv.weight", "ours": QKV, "how": "join"},
        {"theirs": "blocks.{layer}.attn.proj.weight", "ours": LAYER + "self_attn.o_proj.weight"},
        {"theirs": "blocks.{layer}.norm_2.weight", "ours": LAYER + "post_attention_layernorm.weight"},
        {"theirs": "blocks.{layer}.mlp.fc_1.weight", "ours": LAYER + "mlp.gate_proj.weight"},
        {"theirs": "blocks.{layer}.mlp.fc_2.weight", "ours": LAYER + "mlp.up_proj.weight"},
        {"theirs": "blocks.{layer}.mlp.proj.weight", "ours": LAYER + "mlp.down_proj.weight"},
        {"theirs": "final.weight", "ours": "model.norm.weight"},
    ],
    "config": {
        "at": ["sizes"],
        "fields": {
            "layers": "num_hidden_layers",
            "width": "hidden_size",
            "heads": "num_attention_heads",
            "kv": "num_key_value_heads",
            "ffn": "intermediate_size",
            "vocab": "vocab_size",
        },
        "constants": {"model_type": "llama", "rms_norm_eps": 1e-5, "bos_token_id": None, "eos_token_id": None},
        "expects": {"bias": [False]},
    },
}
WORDS = (("transformer.h.", "blocks."), ("transformer.wte", "tokens"), ("transformer.ln_f", "final"))


def written(path: Path, dialect: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(dialect))
    return str(path)
