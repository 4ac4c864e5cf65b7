"""Qwen3 with experts; single layers may keep a dense feed-forward block.

Source: Yang et al., "Qwen3 Technical Report", arXiv 2505.09388; transformers `Qwen3MoeForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Family, Refusal, Size, Sparse
from ckptgrow.families.rows import (
    ATTENTION,
    ATTENTION_BIASES,
    DENSE_LAYERS,
    EMBEDDING,
    EXPERTS,
    FINAL,
    HEAD_NORMS,
    NORMS,
    PIECES_OF_EXPERTS,
    SIZES,
    TIE,
)
from ckptgrow.families.task_rows import QUESTIONS_OF_TRANSFORMER, SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="qwen3_moe",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={
        **SIZES,
        "ffn": Size(config="moe_intermediate_size"),
        "dense_ffn": Size(config="intermediate_size"),
        "experts": Size(config="num_local_experts"),
        "routed": Size(same="experts"),
    },
    parameters=(
        EMBEDDING,
        *ATTENTION,
        *ATTENTION_BIASES,
        *HEAD_NORMS,
        *(replace(one, layers="sparse") for one in (*EXPERTS[1:], EXPERTS[0])),  # here the router comes last
        *DENSE_LAYERS,
        *NORMS,
        *FINAL,
    ),
    pieces=PIECES_OF_EXPERTS,
    tie=TIE,
    dropout=("attention_dropout",),
    sparse=Sparse(dense="mlp_only_layers", step="decoder_sparse_step"),
    aliases={"num_experts": "num_local_experts"},
    refusals=(
        Refusal("hidden", "norms over each head share the ε that would change; ⟦factor K⟧ multiplies the hidden size"),
    ),
    tasks=(SEQUENCE, TOKENS, QUESTIONS_OF_TRANSFORMER, VALUES),
)
