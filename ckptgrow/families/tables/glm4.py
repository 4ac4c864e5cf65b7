"""GLM-4 of 2025: norms before and after each block, fused gates, and positions that turn half of each head.

Source: GLM Team, "GLM-4-0414", 2025; transformers `Glm4ForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding, Parameter, Size
from ckptgrow.families.rows import (
    ATTENTION_BIASES,
    EMBEDDING,
    FINAL,
    FUSED_FFN,
    LAYER,
    NORMS,
    POST_NORM_ATTENTION,
    SIZES,
    TIE,
)
from ckptgrow.families.task_rows import SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="glm4",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={**SIZES, "branch": Size(same="residual")},
    parameters=(
        EMBEDDING,
        *POST_NORM_ATTENTION,
        *ATTENTION_BIASES[:3],
        FUSED_FFN[0],
        Parameter(LAYER + "mlp.down_proj.weight", "branch <- ffn"),
        *NORMS,
        Parameter(LAYER + "post_self_attn_layernorm.weight", "gain residual"),
        Parameter(LAYER + "post_mlp_layernorm.weight", "gain residual"),
        *FINAL,
    ),
    tie=TIE,
    padding=Padding("rms", "rms_norm_eps"),
    dropout=("attention_dropout",),
    residual=("residual", "normed", "final", "branch"),
    tasks=(SEQUENCE, TOKENS, VALUES),
)
