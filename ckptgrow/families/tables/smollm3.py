"""SmolLM3: Llama's blocks, some of them without rotary positions.

Source: Bakouch et al., "SmolLM3", Hugging Face, 2025; transformers `SmolLM3ForCausalLM`.
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
from ckptgrow.families.task_rows import QUESTIONS_OF_TRANSFORMER, SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="smollm3",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={**SIZES, "head": Size(ratio=("residual", "heads"))},
    parameters=(EMBEDDING, *ATTENTION, *ATTENTION_BIASES, *GATED_FFN, *FFN_BIASES, *NORMS, *FINAL),
    tie=TIE,
    padding=Padding("rms", "rms_norm_eps"),
    dropout=("attention_dropout",),
    layer_lists=("layer_types", "no_rope_layers"),
    tasks=(SEQUENCE, TOKENS, QUESTIONS_OF_TRANSFORMER, VALUES),
)
