"""Ministral 3: Mistral's blocks, whose queries grow with the logarithm of their position.

Source: Mistral AI, "Ministral 3", arXiv 2601.08584; transformers `Ministral3ForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding
from ckptgrow.families.rows import ATTENTION, EMBEDDING, FINAL, GATED_FFN, NORMS, SIZES, TIE
from ckptgrow.families.task_rows import QUESTIONS, SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="ministral3",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=SIZES,
    parameters=(EMBEDDING, *ATTENTION, *GATED_FFN, *NORMS, *FINAL),
    tie=TIE,
    padding=Padding("rms", "rms_norm_eps"),
    dropout=("attention_dropout",),
    tasks=(SEQUENCE, TOKENS, QUESTIONS, VALUES),
)
