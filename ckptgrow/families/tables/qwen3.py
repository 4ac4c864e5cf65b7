"""Qwen3: Llama's blocks with norms over each query's and key's head.

Source: Yang et al., "Qwen3 Technical Report", arXiv 2505.09388; transformers `Qwen3ForCausalLM`.
"""

from ckptgrow.families.family import Family
from ckptgrow.families.rows import (
    ATTENTION,
    ATTENTION_BIASES,
    EMBEDDING,
    FINAL,
    GATED_FFN,
    HEAD_NORMS,
    NORMS,
    OF_SHARED_EPS,
    SIZES,
    TIE,
)
from ckptgrow.families.task_rows import QUESTIONS_OF_TRANSFORMER, SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="qwen3",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=SIZES,
    parameters=(EMBEDDING, *ATTENTION, *ATTENTION_BIASES, *HEAD_NORMS, *GATED_FFN, *NORMS, *FINAL),
    tie=TIE,
    dropout=("attention_dropout",),
    layer_lists=("layer_types",),
    padding=OF_SHARED_EPS,
    tasks=(SEQUENCE, TOKENS, QUESTIONS_OF_TRANSFORMER, VALUES),
)
