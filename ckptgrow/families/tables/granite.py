"""Granite: Llama's blocks with constant multipliers, which do not depend on any size.

Source: Granite Team, IBM, "Granite 3.0 Language Models", 2024; transformers `GraniteForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding
from ckptgrow.families.rows import (
    ATTENTION,
    ATTENTION_BIASES,
    EMBEDDING,
    FFN_BIASES,
    FINAL,
    GATED_FFN,
    NORMS,
    SIZES,
    TIE,
)
from ckptgrow.families.task_rows import VALUES

FAMILY = Family(
    model_type="granite",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=SIZES,
    parameters=(EMBEDDING, *ATTENTION, *ATTENTION_BIASES, *GATED_FFN, *FFN_BIASES, *NORMS, *FINAL),
    tie=TIE,
    padding=Padding("rms", "rms_norm_eps"),
    dropout=("attention_dropout",),
    tasks=(VALUES,),
)
