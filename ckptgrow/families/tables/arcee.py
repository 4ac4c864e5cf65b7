"""Arcee: Llama's attention, and a feed-forward block of squared ReLU without a gate.

Source: Arcee AI, "AFM-4.5B", 2025; So et al., "Primer" (squared ReLU), arXiv 2109.08668; transformers
`ArceeForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding
from ckptgrow.families.rows import (
    ATTENTION,
    ATTENTION_BIASES,
    EMBEDDING,
    FINAL,
    NORMS,
    SIZES,
    TIE,
    UNGATED_FFN,
    UNGATED_FFN_BIASES,
)
from ckptgrow.families.task_rows import QUESTIONS_OF_TRANSFORMER, SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="arcee",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=SIZES,
    parameters=(EMBEDDING, *ATTENTION, *ATTENTION_BIASES, *UNGATED_FFN, *UNGATED_FFN_BIASES, *NORMS, *FINAL),
    tie=TIE,
    padding=Padding("rms", "rms_norm_eps"),
    activation="hidden_act",
    dropout=("attention_dropout",),
    tasks=(SEQUENCE, TOKENS, QUESTIONS_OF_TRANSFORMER, VALUES),
)
