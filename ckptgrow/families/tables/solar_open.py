"""Solar Open: Llama's attention, and GLM-4.5's experts in every layer.

Source: Upstage, "Solar Open", 2026; transformers `SolarOpenForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.derived_rows import in_every_layer
from ckptgrow.families.rows import (
    ATTENTION,
    ATTENTION_BIASES,
    EMBEDDING,
    EXPERTS,
    FINAL,
    NORMS,
    shared_experts,
)
from ckptgrow.families.tables.glm4_moe import FAMILY as GLM4_MOE

FAMILY = replace(
    GLM4_MOE,
    model_type="solar_open",
    sizes={space: size for space, size in GLM4_MOE.sizes.items() if space != "dense_ffn"},
    parameters=(
        EMBEDDING,
        *ATTENTION,
        *ATTENTION_BIASES[:3],
        *EXPERTS[1:],
        EXPERTS[0],
        *in_every_layer(shared_experts("n_shared_experts")),
        *NORMS,
        *FINAL,
    ),
    sparse=None,
)
