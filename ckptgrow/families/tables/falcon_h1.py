"""Falcon-H1: attention and Mamba-2's states side by side in each layer, with multipliers all over.

Source: Zuo et al., "Falcon-H1", arXiv 2507.22448; transformers `FalconH1ForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding, Refusal, Size
from ckptgrow.families.mamba_rows import (
    FEED_FORWARD_PART,
    FINAL_LAYERNORM,
    NORMS_BEFORE_PARTS,
    UNITS,
    mixer,
    sizes_with_states,
)
from ckptgrow.families.rows import ATTENTION, ATTENTION_BIASES, EMBEDDING, LAYER, TIE
from ckptgrow.families.task_rows import VALUES

FAMILY = Family(
    model_type="falcon_h1",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=sizes_with_states(Size(config="mamba_d_ssm", product=("expansion", "residual"))),
    parameters=(
        EMBEDDING,
        *FEED_FORWARD_PART,
        *mixer(
            LAYER + "mamba.",
            bias="mamba_proj_bias",
            conv_bias="mamba_conv_bias",
            out_bias="projectors_bias",
            norm="mamba_rms_norm",
        ),
        *ATTENTION,
        *ATTENTION_BIASES,
        *NORMS_BEFORE_PARTS,
        *FINAL_LAYERNORM,
    ),
    tie=TIE,
    padding=Padding("rms", "rms_norm_eps"),
    dropout=("attention_dropout",),
    units=("heads", "kv_heads", "ffn", "inner", *UNITS),
    refusals=(
        Refusal("hidden", "the norm over its states' heads shares the ε that would change", when="mamba_rms_norm"),
        Refusal("hidden", "the number of its states' heads follows the hidden size", when="not mamba_d_ssm"),
    ),
    tasks=(VALUES,),
)
