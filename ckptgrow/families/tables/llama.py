"""Llama: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Source: Touvron et al., "LLaMA", arXiv 2302.13971; transformers `LlamaForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding
from ckptgrow.families.rows import (
    ATTENTION,
    ATTENTION_BIASES,
    EMBEDDING,
    FFN_BIASES,
    FINAL,
    GATED_FFN,
    INVERSE_FREQUENCIES,
    NORMS,
    SIZES,
    TIE,
)
from ckptgrow.families.task_rows import QUESTIONS_OF_TRANSFORMER, SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="llama",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=SIZES,
    parameters=(
        EMBEDDING,
        *ATTENTION,
        *ATTENTION_BIASES,
        *GATED_FFN,
        *FFN_BIASES,
        *NORMS,
        *FINAL,
    ),
    tie=TIE,
    buffers=INVERSE_FREQUENCIES,
    padding=Padding("rms", "rms_norm_eps"),
    dropout=("attention_dropout",),
    tasks=(SEQUENCE, TOKENS, QUESTIONS_OF_TRANSFORMER, VALUES),
)
