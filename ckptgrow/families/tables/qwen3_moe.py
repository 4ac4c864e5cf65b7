"""Qwen3 with experts; single layers may keep a dense feed-forward block.

Source: Yang et al., "Qwen3 Technical Report", arXiv 2505.09388; transformers `Qwen3MoeForCausalLM`.
"""

from ckptgrow.families.family import Family, OfDense, Sparse
from ckptgrow.families.rows import (
    ATTENTION,
    ATTENTION_BIASES,
    DENSE_LAYERS,
    EMBEDDING,
    FINAL,
    HEAD_NORMS,
    NORMS,
    OF_SHARED_EPS,
    PIECES_OF_EXPERTS,
    SPARSE_EXPERTS,
    TIE,
    mixture_sizes,
)
from ckptgrow.families.task_rows import QUESTIONS_OF_TRANSFORMER, SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="qwen3_moe",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=mixture_sizes("num_local_experts"),
    parameters=(
        EMBEDDING,
        *ATTENTION,
        *ATTENTION_BIASES,
        *HEAD_NORMS,
        *SPARSE_EXPERTS,
        *DENSE_LAYERS,
        *NORMS,
        *FINAL,
    ),
    pieces=PIECES_OF_EXPERTS,
    tie=TIE,
    dropout=("attention_dropout",),
    sparse=Sparse(dense="mlp_only_layers", step="decoder_sparse_step"),
    aliases={"num_experts": "num_local_experts"},
    of_dense=OfDense(
        families={"qwen3": {"use_sliding_window": False}},
        fields={"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
        without={"layer_types": "full_attention"},  # its own window is of all layers
        unheard=("max_window_layers",),
    ),
    padding=OF_SHARED_EPS,
    tasks=(SEQUENCE, TOKENS, QUESTIONS_OF_TRANSFORMER, VALUES),
)
