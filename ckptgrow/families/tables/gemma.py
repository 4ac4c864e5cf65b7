"""Gemma: Llama's blocks with embeddings times √hidden, and gains that are stored without the 1 that the model adds.

Source: Gemma Team, "Gemma", arXiv 2403.08295; transformers `GemmaForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding, Parameter
from ckptgrow.families.rows import (
    ATTENTION,
    ATTENTION_BIASES,
    FINAL_WITHOUT_ONE,
    GATED_FFN,
    INVERSE_FREQUENCIES,
    LAYER,
    ROOT_SCALED,
    ROOT_SCALED_EMBEDDING,
    ROOT_SCALED_RESIDUAL,
    ROOT_SCALED_SIZES,
    ROOT_SCALED_TIED,
    TIE,
)
from ckptgrow.families.task_rows import SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="gemma",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=ROOT_SCALED_SIZES,
    parameters=(
        ROOT_SCALED_EMBEDDING,
        *ATTENTION,
        *ATTENTION_BIASES,
        *GATED_FFN,
        Parameter(LAYER + "input_layernorm.weight", "1+gain normed"),
        Parameter(LAYER + "post_attention_layernorm.weight", "1+gain normed"),
        *FINAL_WITHOUT_ONE,
    ),
    tie=TIE,
    buffers=INVERSE_FREQUENCIES,
    padding=Padding("rms", "rms_norm_eps", scale={"embedded": -0.5}, scale_tied={"embedded": -0.5, "final": 0.5}),
    dropout=("attention_dropout",),
    residual=ROOT_SCALED_RESIDUAL,
    shrunken=ROOT_SCALED,
    shrunken_tied=ROOT_SCALED_TIED,
    tasks=(SEQUENCE, TOKENS, VALUES),
)
