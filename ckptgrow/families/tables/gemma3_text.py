"""Gemma 3's language model: Gemma 2's blocks with norms over each query's and key's head.

Source: Gemma Team, "Gemma 3", arXiv 2503.19786; transformers `Gemma3ForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding, Parameter, Size
from ckptgrow.families.rows import (
    FINAL_WITHOUT_ONE,
    LAYER,
    POST_NORM_ATTENTION,
    POST_NORM_BIASES,
    POST_NORM_FFN,
    ROOT_SCALED,
    ROOT_SCALED_EMBEDDING,
    ROOT_SCALED_RESIDUAL,
    ROOT_SCALED_SIZES,
    ROOT_SCALED_TIED,
    SANDWICH_NORMS_WITHOUT_ONE,
    TIE,
)
from ckptgrow.families.task_rows import SEQUENCE, VALUES

STREAM = {"residual": 0.5, "branch": 0.5}

FAMILY = Family(
    model_type="gemma3_text",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={**ROOT_SCALED_SIZES, "branch": Size(same="residual")},
    parameters=(
        ROOT_SCALED_EMBEDDING,
        *POST_NORM_ATTENTION,
        *POST_NORM_BIASES,
        Parameter(LAYER + "self_attn.q_norm.weight", "1+gain head"),
        Parameter(LAYER + "self_attn.k_norm.weight", "1+gain head"),
        *POST_NORM_FFN,
        *SANDWICH_NORMS_WITHOUT_ONE,
        *FINAL_WITHOUT_ONE,
    ),
    tie=TIE,
    dropout=("attention_dropout",),
    residual=(*ROOT_SCALED_RESIDUAL, "branch"),
    shrunken=ROOT_SCALED,
    shrunken_tied=ROOT_SCALED_TIED,
    layer_lists=("layer_types",),
    padding=Padding("rms", None, scale=STREAM, scale_tied=STREAM),  # √hidden × embedding grows by itself
    tasks=(SEQUENCE, VALUES),
)
