"""Helium: Llama's blocks, with heads that are the hidden size together.

Source: Kyutai, "Helium 1", 2025; transformers `HeliumForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding, Size
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
from ckptgrow.families.task_rows import SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="helium",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={**SIZES, "head": Size(ratio=("residual", "heads"))},
    parameters=(EMBEDDING, *ATTENTION, *ATTENTION_BIASES[:3], *GATED_FFN, *FFN_BIASES, *NORMS, *FINAL),
    tie=TIE,
    padding=Padding("rms", "rms_norm_eps"),
    dropout=("attention_dropout",),
    tasks=(SEQUENCE, TOKENS, VALUES),
)
