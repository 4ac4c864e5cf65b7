"""Qwen2 with experts, one of which every token has through a gate of its own; single layers may stay dense.

Source: Yang et al., "Qwen2 Technical Report", arXiv 2407.10671; transformers `Qwen2MoeForCausalLM`.
"""

from ckptgrow.families.family import UNITS, Family, OfDense, Padding, Parameter, Size, Sparse
from ckptgrow.families.rows import (
    ATTENTION,
    DENSE_LAYERS,
    EMBEDDING,
    FINAL,
    LAYER,
    NORMS,
    PIECES_OF_EXPERTS,
    SHARED_EXPERT,
    SPARSE_EXPERTS_BEHIND_ROUTER,
    TIE,
    mixture_sizes,
)
from ckptgrow.families.task_rows import QUESTIONS, SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="qwen2_moe",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={
        **mixture_sizes("num_experts"),
        "shared_ffn": Size(config="shared_expert_intermediate_size"),
    },
    parameters=(
        EMBEDDING,
        *ATTENTION,
        Parameter(LAYER + "self_attn.q_proj.bias", "(heads head)", when="qkv_bias"),
        Parameter(LAYER + "self_attn.k_proj.bias", "(kv_heads head)", when="qkv_bias"),
        Parameter(LAYER + "self_attn.v_proj.bias", "(kv_heads! head)", when="qkv_bias"),
        *SPARSE_EXPERTS_BEHIND_ROUTER,
        *SHARED_EXPERT,
        *DENSE_LAYERS,
        *NORMS,
        *FINAL,
    ),
    pieces=PIECES_OF_EXPERTS,
    tie=TIE,
    padding=Padding("rms", "rms_norm_eps"),
    dropout=("attention_dropout",),
    units=(*UNITS, "shared_ffn"),
    layer_lists=("layer_types",),
    sparse=Sparse(dense="mlp_only_layers", step="decoder_sparse_step"),
    of_dense=OfDense(
        families={"qwen2": {"qkv_bias": True}, "llama": {"qkv_bias": False}},
        fields={"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
        without={"attention_bias": False, "mlp_bias": False},
        unheard=("pretraining_tp",),
    ),
    tasks=(SEQUENCE, TOKENS, QUESTIONS, VALUES),
)
