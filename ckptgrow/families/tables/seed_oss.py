"""Seed-OSS: Llama's blocks with biases of queries, keys and values.

Source: ByteDance Seed, "Seed-OSS", 2025; transformers `SeedOssForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding, Parameter
from ckptgrow.families.rows import (
    ATTENTION,
    ATTENTION_BIASES,
    EMBEDDING,
    FFN_BIASES,
    FINAL,
    GATED_FFN,
    LAYER,
    NORMS,
    SIZES,
    TIE,
)
from ckptgrow.families.task_rows import QUESTIONS_OF_TRANSFORMER, SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="seed_oss",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=SIZES,
    parameters=(
        EMBEDDING,
        *ATTENTION,
        *ATTENTION_BIASES[:3],
        Parameter(LAYER + "self_attn.o_proj.bias", "residual", when="attention_out_bias"),
        *GATED_FFN,
        *FFN_BIASES,
        *NORMS,
        *FINAL,
    ),
    tie=TIE,
    padding=Padding("rms", "rms_norm_eps"),
    dropout=("attention_dropout", "residual_dropout"),
    tasks=(SEQUENCE, TOKENS, QUESTIONS_OF_TRANSFORMER, VALUES),
)
