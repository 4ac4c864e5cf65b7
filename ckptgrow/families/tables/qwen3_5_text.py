"""Qwen3.5's text model: gated delta rules, and gated attention in every fourth layer; gains without their 1.

Source: Qwen Team, "Qwen3.5", 2026; transformers `Qwen3_5ForCausalLM`.
"""

from ckptgrow.families.delta_rows import (
    CHANNELS,
    DELTA,
    DELTA_BEGIN,
    DELTA_END,
    DELTA_SIZES,
    GATED_ATTENTION,
    MIXER,
    NORMS_WITHOUT_ONE,
)
from ckptgrow.families.family import Family, Parameter
from ckptgrow.families.rows import EMBEDDING, FINAL_WITHOUT_ONE, GATED_FFN, OF_SHARED_EPS, SIZES, TIE
from ckptgrow.families.task_rows import SEQUENCE, VALUES

FAMILY = Family(
    model_type="qwen3_5_text",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={**SIZES, **DELTA_SIZES},
    parameters=(
        EMBEDDING,
        *DELTA_BEGIN,
        *DELTA_END,
        Parameter(MIXER + "in_proj_qkv.weight", CHANNELS + " <- normed", layers=DELTA),
        Parameter(MIXER + "in_proj_z.weight", "(value_heads! value_head) <- normed", layers=DELTA),
        Parameter(MIXER + "in_proj_b.weight", "value_heads <- normed", layers=DELTA),
        Parameter(MIXER + "in_proj_a.weight", "value_heads <- normed", layers=DELTA),
        *GATED_ATTENTION,
        *GATED_FFN,
        *NORMS_WITHOUT_ONE,
        *FINAL_WITHOUT_ONE,
    ),
    tie=TIE,
    dropout=("attention_dropout",),
    units=("heads", "kv_heads", "ffn", "key_heads", "value_heads"),
    layer_lists=("layer_types",),
    padding=OF_SHARED_EPS,
    tasks=(SEQUENCE, VALUES),
)
