"""Llama: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Source: Touvron et al., "LLaMA", arXiv 2302.13971; transformers `LlamaForCausalLM`.
"""

from ckptgrow.families.family import Family, Parameter
from ckptgrow.families.rows import (
    ATTENTION,
    ATTENTION_BIASES,
    EMBEDDING,
    FINAL,
    GATED_FFN,
    INVERSE_FREQUENCIES,
    LAYER,
    NORMS,
    SIZES,
    TIE,
)

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
        Parameter(LAYER + "mlp.gate_proj.bias", "ffn", when="mlp_bias"),
        Parameter(LAYER + "mlp.up_proj.bias", "ffn", when="mlp_bias"),
        Parameter(LAYER + "mlp.down_proj.bias", "residual", when="mlp_bias"),
        *NORMS,
        *FINAL,
    ),
    tie=TIE,
    buffers=INVERSE_FREQUENCIES,
    dropout=("attention_dropout",),
)
