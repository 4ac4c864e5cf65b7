"""Gemma 2: norms before and after each block, soft caps, local and global layers in turn.

Source: Gemma Team, "Gemma 2", arXiv 2408.00118; transformers `Gemma2ForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding, Size
from ckptgrow.families.rows import (
    FINAL_WITHOUT_ONE,
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
from ckptgrow.families.task_rows import SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="gemma2",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={**ROOT_SCALED_SIZES, "branch": Size(same="residual")},
    parameters=(
        ROOT_SCALED_EMBEDDING,
        *POST_NORM_ATTENTION,
        *POST_NORM_BIASES,
        *POST_NORM_FFN,
        *SANDWICH_NORMS_WITHOUT_ONE,
        *FINAL_WITHOUT_ONE,
    ),
    tie=TIE,
    padding=Padding("rms", "rms_norm_eps", scale={"embedded": -0.5}, scale_tied={"embedded": -0.5, "final": 0.5}),
    dropout=("attention_dropout",),
    residual=(*ROOT_SCALED_RESIDUAL, "branch"),
    shrunken=ROOT_SCALED,
    shrunken_tied=ROOT_SCALED_TIED,
    layer_lists=("layer_types",),
    tasks=(SEQUENCE, TOKENS, VALUES),
)
