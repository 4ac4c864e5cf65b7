"""EXAONE 4: norms after each block and over each head, and no rotary positions where attention is global.

Source: LG AI Research, "EXAONE 4.0", arXiv 2507.11407; transformers `Exaone4ForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Family, Parameter, Size
from ckptgrow.families.rows import (
    EMBEDDING,
    FINAL,
    HEAD_NORMS,
    LAYER,
    OF_SHARED_EPS,
    POST_NORM_ATTENTION,
    POST_NORM_FFN,
    SIZES,
    TIE,
)
from ckptgrow.families.task_rows import QUESTIONS_OF_TRANSFORMER, SEQUENCE, TOKENS, VALUES

STREAM = {"residual": 0.5, "normed": 0.5, "branch": 0.5}  # no norm stands between the stream and its readers

FAMILY = Family(
    model_type="exaone4",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={**SIZES, "branch": Size(same="residual")},
    parameters=(
        EMBEDDING,
        *POST_NORM_ATTENTION,
        *HEAD_NORMS,
        *POST_NORM_FFN,
        Parameter(LAYER + "post_attention_layernorm.weight", "gain residual"),
        Parameter(LAYER + "post_feedforward_layernorm.weight", "gain residual"),
        *FINAL,
    ),
    tie=TIE,
    dropout=("attention_dropout",),
    residual=("residual", "normed", "final", "branch"),
    layer_lists=("layer_types",),
    padding=replace(OF_SHARED_EPS, scale=STREAM, scale_tied={**STREAM, "final": -0.5}),
    tasks=(SEQUENCE, TOKENS, QUESTIONS_OF_TRANSFORMER, VALUES),
)
