"""Qwen3 with experts; single layers may keep a dense feed-forward block.

Source: Yang et al., "Qwen3 Technical Report", arXiv 2505.09388; transformers `Qwen3MoeForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Family, InPieces, Parameter, Refusal, Size, Sparse
from ckptgrow.families.rows import (
    ATTENTION,
    ATTENTION_BIASES,
    EMBEDDING,
    EXPERTS,
    FINAL,
    HEAD_NORMS,
    LAYER,
    NORMS,
    SIZES,
    TIE,
)

EXPERT = LAYER + "mlp.experts.{expert}."

FAMILY = Family(
    model_type="qwen3_moe",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={
        **SIZES,
        "ffn": Size(config="moe_intermediate_size"),
        "dense_ffn": Size(config="intermediate_size"),
        "experts": Size(config="num_local_experts"),
    },
    parameters=(
        EMBEDDING,
        *ATTENTION,
        *ATTENTION_BIASES,
        *HEAD_NORMS,
        *(replace(one, layers="sparse") for one in (*EXPERTS[1:], EXPERTS[0])),  # here the router comes last
        Parameter(LAYER + "mlp.gate_proj.weight", "dense_ffn <- normed", layers="dense"),
        Parameter(LAYER + "mlp.up_proj.weight", "dense_ffn! <- normed", layers="dense"),
        Parameter(LAYER + "mlp.down_proj.weight", "residual <- dense_ffn", layers="dense"),
        *NORMS,
        *FINAL,
    ),
    pieces=(
        InPieces(
            LAYER + "mlp.experts.gate_up_proj",
            (
                Parameter(EXPERT + "gate_proj.weight", "ffn <- normed"),
                Parameter(EXPERT + "up_proj.weight", "ffn! <- normed"),
            ),
        ),
        InPieces(LAYER + "mlp.experts.down_proj", (Parameter(EXPERT + "down_proj.weight", "residual <- ffn"),)),
    ),
    tie=TIE,
    dropout=("attention_dropout",),
    sparse=Sparse(dense="mlp_only_layers", step="decoder_sparse_step"),
    aliases={"num_experts": "num_local_experts"},
    refusals=(
        Refusal("hidden", "norms over each head share the ε that would change; ⟦factor K⟧ multiplies the hidden size"),
    ),
)
