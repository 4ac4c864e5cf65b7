"""Jais 2: Llama's attention behind LayerNorms, and squared ReLU without a gate.

Source: Inception, MBZUAI and Cerebras, "Jais 2", 2025; transformers `Jais2ForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding, Parameter
from ckptgrow.families.rows import (
    ATTENTION,
    ATTENTION_BIASES,
    EMBEDDING,
    FINAL,
    NORM_BIASES,
    NORMS,
    SIZES,
    TIE,
    UNGATED_FFN,
    UNGATED_FFN_BIASES,
)
from ckptgrow.families.task_rows import VALUES

FAMILY = Family(
    model_type="jais2",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=SIZES,
    parameters=(
        EMBEDDING,
        *ATTENTION,
        *ATTENTION_BIASES,
        *UNGATED_FFN,
        *UNGATED_FFN_BIASES,
        *NORMS,
        *NORM_BIASES,
        *FINAL,
        Parameter("model.norm.bias", "final"),
    ),
    tie=TIE,
    padding=Padding("layer", "layer_norm_eps"),
    activation="hidden_act",
    dropout=("attention_dropout",),
    tasks=(VALUES,),
)
