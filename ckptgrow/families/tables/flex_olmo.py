"""FlexOlmo: OLMoE's experts in OLMo 2's blocks, whose norms stand behind each part.

Source: Shi et al., "FlexOlmo: Open Language Models for Flexible Data Use", arXiv 2507.07024; transformers
`FlexOlmoForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Parameter, Size
from ckptgrow.families.rows import EMBEDDING, EXPERTS, FINAL, LAYER, POST_NORM_ATTENTION, POST_NORM_BIASES
from ckptgrow.families.tables.olmoe import FAMILY as OLMOE

FAMILY = replace(
    OLMOE,
    model_type="flex_olmo",
    sizes={**OLMOE.sizes, "branch": Size(same="residual")},
    parameters=(
        EMBEDDING,
        *POST_NORM_ATTENTION,
        *POST_NORM_BIASES,
        Parameter(LAYER + "self_attn.q_norm.weight", "gain (heads head)"),
        Parameter(LAYER + "self_attn.k_norm.weight", "gain (kv_heads head)"),
        *EXPERTS[:2],
        Parameter(LAYER + "mlp.experts.down_proj", "routed <: branch <- ffn"),
        Parameter(LAYER + "post_attention_layernorm.weight", "gain residual"),
        Parameter(LAYER + "post_feedforward_layernorm.weight", "gain residual"),
        *FINAL,
    ),
    residual=("residual", "normed", "final", "branch"),
)
