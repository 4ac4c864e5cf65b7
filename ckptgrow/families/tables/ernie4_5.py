"""ERNIE 4.5: Llama's blocks, whose rotary positions turn neighbouring coordinates.

Source: Baidu, "ERNIE 4.5 Technical Report", 2025; transformers `Ernie4_5ForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Family, Padding
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
from ckptgrow.families.task_rows import VALUES

FAMILY = Family(
    model_type="ernie4_5",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=SIZES,
    parameters=(
        EMBEDDING,
        *ATTENTION,
        *GATED_FFN,
        *(replace(one, when="use_bias") for one in (*ATTENTION_BIASES, *FFN_BIASES)),
        *NORMS,
        *FINAL,
    ),
    tie=replace(TIE, default=True),
    padding=Padding("rms", "rms_norm_eps"),
    tasks=(VALUES,),
)
