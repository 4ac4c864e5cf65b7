"""Bamba: layers of Mamba-2's states, and attention in those whose numbers its config lists.

Source: IBM, Princeton, CMU and UIUC, "Bamba", 2024; transformers `BambaForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Family, Size
from ckptgrow.families.mamba_rows import (
    FEED_FORWARD_PART,
    FINAL_LAYERNORM,
    FOLLOWS_HIDDEN,
    NORMS_BEFORE_PARTS,
    UNITS,
    mixer,
    sizes_with_states,
)
from ckptgrow.families.rows import ATTENTION, ATTENTION_BIASES, EMBEDDING, LAYER, TIE
from ckptgrow.families.task_rows import VALUES

NUMBERS = "attn_layer_indices"

FAMILY = Family(
    model_type="bamba",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=sizes_with_states(Size(product=("expansion", "residual"))),
    parameters=(
        EMBEDDING,
        *FEED_FORWARD_PART,
        *NORMS_BEFORE_PARTS,
        *mixer(LAYER + "mamba.", bias="mamba_proj_bias", conv_bias="mamba_conv_bias", layers=f"not in {NUMBERS}"),
        *(replace(one, layers=f"in {NUMBERS}") for one in (*ATTENTION, *ATTENTION_BIASES)),
        *FINAL_LAYERNORM,
    ),
    tie=TIE,
    dropout=("attention_dropout",),
    units=("heads", "kv_heads", "ffn", "inner", *UNITS),
    layer_numbers=(NUMBERS,),
    refusals=(FOLLOWS_HIDDEN,),
    tasks=(VALUES,),
)
