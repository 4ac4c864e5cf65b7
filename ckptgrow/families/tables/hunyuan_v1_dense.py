"""Hunyuan's dense models: Llama's blocks with norms over each query's and key's head, behind the rotation.

Source: Tencent Hunyuan, "Hunyuan-7B", 2025; transformers `HunYuanDenseV1ForCausalLM`.
"""

from ckptgrow.families.family import Family, Parameter
from ckptgrow.families.rows import (
    ATTENTION,
    ATTENTION_BIASES,
    EMBEDDING,
    FINAL,
    GATED_FFN,
    LAYER,
    NORMS,
    OF_SHARED_EPS,
    SIZES,
    TIE,
)
from ckptgrow.families.task_rows import SEQUENCE, VALUES

FAMILY = Family(
    model_type="hunyuan_v1_dense",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=SIZES,
    parameters=(
        EMBEDDING,
        *ATTENTION,
        *ATTENTION_BIASES,
        Parameter(LAYER + "self_attn.query_layernorm.weight", "gain head"),
        Parameter(LAYER + "self_attn.key_layernorm.weight", "gain head"),
        *GATED_FFN,
        *NORMS,
        *FINAL,
    ),
    tie=TIE,
    dropout=("attention_dropout",),
    padding=OF_SHARED_EPS,
    tasks=(SEQUENCE, VALUES),
)
