"""dots.llm1: Qwen3's attention, and experts as in DeepSeek-V3.

Source: rednote-hilab, "dots.llm1 Technical Report", arXiv 2506.05767; transformers `Dots1ForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.rows import (
    ATTENTION,
    ATTENTION_BIASES,
    DENSE_LAYERS,
    EMBEDDING,
    FINAL,
    HEAD_NORMS,
    NORMS,
    OF_SHARED_EPS,
    SPARSE_EXPERTS,
    shared_experts,
)
from ckptgrow.families.tables.glm4_moe import FAMILY as GLM4_MOE

FAMILY = replace(
    GLM4_MOE,
    model_type="dots1",
    parameters=(
        EMBEDDING,
        *ATTENTION,
        *ATTENTION_BIASES,
        *HEAD_NORMS,
        *DENSE_LAYERS,
        *SPARSE_EXPERTS,
        *shared_experts("n_shared_experts"),
        *NORMS,
        *FINAL,
    ),
    padding=OF_SHARED_EPS,
    layer_lists=("layer_types",),
)
