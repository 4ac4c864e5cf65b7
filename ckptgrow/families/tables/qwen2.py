"""Qwen2: Llama's blocks with biases on queries, keys and values alone.

Source: Yang et al., "Qwen2 Technical Report", arXiv 2407.10671; transformers `Qwen2ForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding, Parameter
from ckptgrow.families.rows import (
    ATTENTION,
    EMBEDDING,
    FINAL,
    GATED_FFN,
    INVERSE_FREQUENCIES,
    LAYER,
    NORMS,
    SIZES,
    TIE,
)
from ckptgrow.families.task_rows import QUESTIONS_OF_TRANSFORMER, SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="qwen2",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=SIZES,
    parameters=(
        EMBEDDING,
        *ATTENTION,
        Parameter(LAYER + "self_attn.q_proj.bias", "(heads head)"),
        Parameter(LAYER + "self_attn.k_proj.bias", "(kv_heads head)"),
        Parameter(LAYER + "self_attn.v_proj.bias", "(kv_heads! head)"),
        *GATED_FFN,
        *NORMS,
        *FINAL,
    ),
    tie=TIE,
    buffers=INVERSE_FREQUENCIES,
    padding=Padding("rms", "rms_norm_eps"),
    dropout=("attention_dropout",),
    layer_lists=("layer_types",),
    tasks=(SEQUENCE, TOKENS, QUESTIONS_OF_TRANSFORMER, VALUES),
)
