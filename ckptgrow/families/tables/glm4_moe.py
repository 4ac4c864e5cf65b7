"""GLM-4.5: experts chosen by sigmoids and a bias that no gradient moves, shared experts, dense layers first.

Source: GLM-4.5 Team, "GLM-4.5", arXiv 2508.06471; the bias: Wang et al., arXiv 2408.15664; transformers
`Glm4MoeForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Family, Sparse
from ckptgrow.families.rows import (
    ATTENTION,
    ATTENTION_BIASES,
    CHOSEN_BY_BIAS,
    DENSE_LAYERS,
    EMBEDDING,
    FINAL,
    HEAD_NORMS,
    LAYER,
    NORMS,
    OF_CHOICE,
    OF_SHARED_EPS,
    PIECES_OF_EXPERTS,
    SPARSE_EXPERTS,
    TIE,
    mixture_sizes,
    shared_experts,
)
from ckptgrow.families.task_rows import VALUES

FAMILY = Family(
    model_type="glm4_moe",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={**mixture_sizes("n_routed_experts", "n_shared_experts"), **OF_CHOICE},
    parameters=(
        EMBEDDING,
        *ATTENTION,
        *ATTENTION_BIASES[:3],
        *(replace(one, when="use_qk_norm") for one in HEAD_NORMS),
        *DENSE_LAYERS,
        *SPARSE_EXPERTS,
        *shared_experts("n_shared_experts"),
        *NORMS,
        *FINAL,
    ),
    pieces=PIECES_OF_EXPERTS,
    tie=TIE,
    buffers=(LAYER + "mlp.gate.e_score_correction_bias",),
    padding=OF_SHARED_EPS,
    dropout=("attention_dropout",),
    sparse=Sparse(first="first_k_dense_replace"),
    aliases={"num_local_experts": "n_routed_experts"},
    choice=CHOSEN_BY_BIAS,
    tasks=(VALUES,),
)
