"""DeepSeek-V3: keys and values out of one short vector a token, rotated keys that all heads share, experts in groups.

The latent vectors have norms of their own whose ε is no field, and keep their sizes: width grows the heads that read
them. Experts are chosen by sigmoids and a bias that no gradient moves; the first layers are dense.

Source: DeepSeek-AI, "DeepSeek-V3 Technical Report", arXiv 2412.19437; transformers `DeepseekV3ForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding, Parameter, Size, Sparse
from ckptgrow.families.rows import (
    CHOSEN_BY_BIAS,
    DENSE_LAYERS,
    EMBEDDING,
    FINAL,
    LAYER,
    NORMS,
    OF_CHOICE,
    PIECES_OF_EXPERTS,
    SPARSE_EXPERTS,
    TIE,
    mixture_sizes,
    shared_experts,
)
from ckptgrow.families.task_rows import SEQUENCE, TOKENS, VALUES

ATTENTION = LAYER + "self_attn."
MIXTURE = mixture_sizes("n_routed_experts", "n_shared_experts")

FAMILY = Family(
    model_type="deepseek_v3",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={
        **{space: size for space, size in MIXTURE.items() if space != "kv_heads"},
        **OF_CHOICE,
        "head": Size(config="v_head_dim"),
        "nope": Size(config="qk_nope_head_dim"),
        "rope": Size(config="qk_rope_head_dim"),
        "query_head": Size(sum=("nope", "rope")),
        "key_and_value": Size(sum=("nope", "head")),
        "query_latent": Size(config="q_lora_rank", is_optional=True),
        "latent": Size(config="kv_lora_rank"),
    },
    parameters=(
        EMBEDDING,
        Parameter(ATTENTION + "q_proj.weight", "(heads query_head) <- normed", when="not q_lora_rank"),
        Parameter(ATTENTION + "q_a_proj.weight", "query_latent <- normed", when="q_lora_rank"),
        Parameter(ATTENTION + "q_a_proj.bias", "query_latent", when="q_lora_rank and attention_bias"),
        Parameter(ATTENTION + "q_a_layernorm.weight", "gain query_latent", when="q_lora_rank"),
        Parameter(ATTENTION + "q_b_proj.weight", "(heads query_head) <- query_latent", when="q_lora_rank"),
        Parameter(ATTENTION + "kv_a_proj_with_mqa.weight", "(latent + rope) <- normed"),
        Parameter(ATTENTION + "kv_a_proj_with_mqa.bias", "(latent + rope)", when="attention_bias"),
        Parameter(ATTENTION + "kv_a_layernorm.weight", "gain latent"),
        Parameter(ATTENTION + "kv_b_proj.weight", "(heads! key_and_value) <- latent"),
        Parameter(ATTENTION + "o_proj.weight", "residual <- (heads head)"),
        Parameter(ATTENTION + "o_proj.bias", "residual", when="attention_bias"),
        *DENSE_LAYERS,
        *SPARSE_EXPERTS,
        *shared_experts("n_shared_experts"),
        *NORMS,
        *FINAL,
    ),
    pieces=PIECES_OF_EXPERTS,
    tie=TIE,
    buffers=(LAYER + "mlp.gate.e_score_correction_bias",),
    padding=Padding("rms", "rms_norm_eps"),
    dropout=("attention_dropout",),
    sparse=Sparse(first="first_k_dense_replace"),
    aliases={"num_local_experts": "n_routed_experts"},
    equal={"num_key_value_heads": "num_attention_heads"},
    choice=CHOSEN_BY_BIAS,
    tasks=(SEQUENCE, TOKENS, VALUES),
)
