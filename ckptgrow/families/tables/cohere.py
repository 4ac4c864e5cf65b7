"""Cohere's Command R: attention and feed-forward side by side behind one LayerNorm without biases, scaled logits.

Norms over queries and keys have gains of their own for every head.

Source: Cohere, "Command R", 2024; transformers `CohereForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Family, Parameter
from ckptgrow.families.rows import (
    ATTENTION,
    ATTENTION_BIASES,
    EMBEDDING,
    FINAL,
    GATED_FFN,
    LAYER,
    NORMS,
    OF_SHARED_EPS,
    SIZES,
    TIE,
)
from ckptgrow.families.task_rows import VALUES

FAMILY = Family(
    model_type="cohere",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=SIZES,
    parameters=(
        EMBEDDING,
        *ATTENTION,
        *ATTENTION_BIASES,
        Parameter(LAYER + "self_attn.q_norm.weight", "heads: gain head", when="use_qk_norm"),
        Parameter(LAYER + "self_attn.k_norm.weight", "kv_heads: gain head", when="use_qk_norm"),
        *GATED_FFN,
        NORMS[0],
        *FINAL,
    ),
    tie=replace(TIE, default=True),
    padding=replace(OF_SHARED_EPS, norm="layer"),
    dropout=("attention_dropout",),
    tasks=(VALUES,),
)
