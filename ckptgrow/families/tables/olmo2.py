"""OLMo 2: norms after each block, and over all queries and all keys of a layer.

Source: OLMo Team, "2 OLMo 2 Furious", arXiv 2501.00656; transformers `Olmo2ForCausalLM`.
"""

from ckptgrow.families.family import Family, Parameter, Refusal, Size
from ckptgrow.families.rows import (
    EMBEDDING,
    FINAL,
    LAYER,
    NORMS_OVER_ALL,
    POST_NORM_ATTENTION,
    POST_NORM_BIASES,
    POST_NORM_FFN,
    SIZES,
    TIE,
)
from ckptgrow.families.task_rows import SEQUENCE, VALUES

FAMILY = Family(
    model_type="olmo2",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={**SIZES, "branch": Size(same="residual")},
    parameters=(
        EMBEDDING,
        *POST_NORM_ATTENTION,
        *POST_NORM_BIASES,
        Parameter(LAYER + "self_attn.q_norm.weight", "gain (heads head)"),
        Parameter(LAYER + "self_attn.k_norm.weight", "gain (kv_heads head)"),
        *POST_NORM_FFN,
        Parameter(LAYER + "post_attention_layernorm.weight", "gain residual"),
        Parameter(LAYER + "post_feedforward_layernorm.weight", "gain residual"),
        *FINAL,
    ),
    tie=TIE,
    dropout=("attention_dropout",),
    residual=("residual", "normed", "final", "branch"),
    refusals=(
        NORMS_OVER_ALL,
        Refusal("heads", "a norm runs over all heads, so uneven copies weigh differently in it"),
        Refusal("kv_heads", "a norm runs over all heads, so uneven copies weigh differently in it"),
    ),
    tasks=(SEQUENCE, VALUES),
)
