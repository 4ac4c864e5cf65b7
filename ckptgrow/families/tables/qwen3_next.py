"""Qwen3-Next: gated delta rules beside gated attention, experts with one for every token; gains without their 1.

What a delta rule reads is fused by key head: its query and key, and the values and gates of the value heads that it
serves.

Source: Qwen Team, "Qwen3-Next", 2025; transformers `Qwen3NextForCausalLM`.
"""

from ckptgrow.families.delta_rows import (
    DELTA,
    DELTA_BEGIN,
    DELTA_END,
    DELTA_SIZES,
    GATED_ATTENTION,
    MIXER,
    NORMS_WITHOUT_ONE,
)
from ckptgrow.families.family import Family, Parameter, Size, Sparse
from ckptgrow.families.rows import (
    DENSE_LAYERS,
    EMBEDDING,
    FINAL_WITHOUT_ONE,
    OF_SHARED_EPS,
    PIECES_OF_EXPERTS,
    SHARED_EXPERT,
    SPARSE_EXPERTS_BEHIND_ROUTER,
    TIE,
    mixture_sizes,
)
from ckptgrow.families.task_rows import QUESTIONS_OF_TRANSFORMER, SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="qwen3_next",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={
        **mixture_sizes("num_experts"),
        "shared_ffn": Size(config="shared_expert_intermediate_size"),
        **DELTA_SIZES,
        "served": Size(ratio=("value_heads", "key_heads")),
        "served_value": Size(product=("served", "value_head")),
        "group": Size(sum=("key_head", "key_head", "served_value", "served_value")),
    },
    parameters=(
        EMBEDDING,
        *DELTA_BEGIN,
        Parameter(MIXER + "in_proj_qkvz.weight", "(key_heads group) <- normed", layers=DELTA),
        Parameter(MIXER + "in_proj_ba.weight", "(key_heads 2 served) <- normed", layers=DELTA),
        *DELTA_END,
        *GATED_ATTENTION,
        *SPARSE_EXPERTS_BEHIND_ROUTER,
        *SHARED_EXPERT,
        *DENSE_LAYERS,
        *NORMS_WITHOUT_ONE,
        *FINAL_WITHOUT_ONE,
    ),
    pieces=PIECES_OF_EXPERTS,
    tie=TIE,
    dropout=("attention_dropout",),
    units=("heads", "kv_heads", "ffn", "dense_ffn", "shared_ffn", "key_heads", "value_heads"),
    layer_lists=("layer_types",),
    sparse=Sparse(dense="mlp_only_layers", step="decoder_sparse_step"),
    padding=OF_SHARED_EPS,
    tasks=(SEQUENCE, TOKENS, QUESTIONS_OF_TRANSFORMER, VALUES),
)
