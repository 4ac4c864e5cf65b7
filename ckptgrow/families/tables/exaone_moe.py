"""K-EXAONE: EXAONE 4's attention behind Llama's norms, and DeepSeek-V3's experts; a list says which layers are dense.

Source: LG AI Research, "K-EXAONE", arXiv 2601.01739; transformers `ExaoneMoeForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.derived_rows import by_list
from ckptgrow.families.rows import (
    ATTENTION,
    DENSE_LAYERS,
    EMBEDDING,
    FINAL,
    HEAD_NORMS,
    NORMS,
    OF_CHOICE,
    OF_SHARED_EPS,
    SPARSE_EXPERTS,
    mixture_sizes,
    shared_experts,
)
from ckptgrow.families.tables.glm4_moe import FAMILY as GLM4_MOE

FAMILY = replace(
    GLM4_MOE,
    model_type="exaone_moe",
    sizes={**mixture_sizes("num_experts", "num_shared_experts"), **OF_CHOICE},
    parameters=by_list(
        (
            EMBEDDING,
            *ATTENTION,
            *HEAD_NORMS,
            *DENSE_LAYERS,
            *SPARSE_EXPERTS,
            *shared_experts("num_shared_experts"),
            *NORMS,
            *FINAL,
        ),
        "mlp_layer_types",
    ),
    spellings=(("mlp.gate.e_score_correction_bias", "mlp.e_score_correction_bias"),),
    padding=OF_SHARED_EPS,
    layer_lists=("layer_types", "mlp_layer_types"),
    sparse=None,
    aliases={},
)
