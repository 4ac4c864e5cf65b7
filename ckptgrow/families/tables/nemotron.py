"""Nemotron: LayerNorms whose gains are stored without their 1, squared ReLU without a gate, partial rotary positions.

Source: Parmar et al., "Nemotron-4 15B Technical Report", arXiv 2402.16819; transformers `NemotronForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding, Parameter
from ckptgrow.families.rows import (
    ATTENTION,
    ATTENTION_BIASES,
    EMBEDDING,
    FINAL_WITHOUT_ONE,
    LAYER,
    SIZES,
    TIE,
    UNGATED_FFN,
    UNGATED_FFN_BIASES,
)
from ckptgrow.families.task_rows import QUESTIONS_OF_TRANSFORMER, SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="nemotron",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=SIZES,
    parameters=(
        EMBEDDING,
        *ATTENTION,
        *ATTENTION_BIASES,
        *UNGATED_FFN,
        *UNGATED_FFN_BIASES,
        Parameter(LAYER + "input_layernorm.weight", "1+gain normed"),
        Parameter(LAYER + "input_layernorm.bias", "normed"),
        Parameter(LAYER + "post_attention_layernorm.weight", "1+gain normed"),
        Parameter(LAYER + "post_attention_layernorm.bias", "normed"),
        *FINAL_WITHOUT_ONE,
        Parameter("model.norm.bias", "final"),
    ),
    tie=TIE,
    padding=Padding("layer", "norm_eps"),
    activation="hidden_act",
    dropout=("attention_dropout",),
    tasks=(SEQUENCE, TOKENS, QUESTIONS_OF_TRANSFORMER, VALUES),
)
