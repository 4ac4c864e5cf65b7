"""Ministral: Mistral's blocks, some of them with a sliding window.

Source: Mistral AI, "Ministraux", 2024; transformers `MinistralForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding
from ckptgrow.families.rows import ATTENTION, EMBEDDING, FINAL, GATED_FFN, NORMS, SIZES, TIE
from ckptgrow.families.task_rows import QUESTIONS_OF_TRANSFORMER, SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="ministral",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=SIZES,
    parameters=(EMBEDDING, *ATTENTION, *GATED_FFN, *NORMS, *FINAL),
    tie=TIE,
    padding=Padding("rms", "rms_norm_eps"),
    dropout=("attention_dropout",),
    layer_lists=("layer_types",),
    tasks=(SEQUENCE, TOKENS, QUESTIONS_OF_TRANSFORMER, VALUES),
)
