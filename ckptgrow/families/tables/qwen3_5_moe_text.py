"""Qwen3.5's text model with experts in every layer, and one beside them behind a gate of its own.

Source: Qwen Team, "Qwen3.5", 2026; transformers `Qwen3_5MoeForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.derived_rows import in_every_layer
from ckptgrow.families.family import Size
from ckptgrow.families.rows import EXPERTS, GATED_FFN, PIECES_OF_EXPERTS, SHARED_EXPERT, SIZES
from ckptgrow.families.tables.qwen3_5_text import FAMILY as QWEN3_5_TEXT
from ckptgrow.families.task_rows import VALUES

FIRST = QWEN3_5_TEXT.parameters.index(GATED_FFN[0])

FAMILY = replace(
    QWEN3_5_TEXT,
    model_type="qwen3_5_moe_text",
    sizes={
        **QWEN3_5_TEXT.sizes,
        **{space: SIZES[space] for space in ("heads", "kv_heads", "head")},
        "ffn": Size(config="moe_intermediate_size"),
        "experts": Size(config="num_experts"),
        "routed": Size(same="experts"),
        "shared_ffn": Size(config="shared_expert_intermediate_size"),
    },
    parameters=(
        *QWEN3_5_TEXT.parameters[:FIRST],
        *EXPERTS,
        *in_every_layer(SHARED_EXPERT),
        *QWEN3_5_TEXT.parameters[FIRST + len(GATED_FFN) :],
    ),
    pieces=PIECES_OF_EXPERTS,
    units=(*QWEN3_5_TEXT.units, "shared_ffn"),
    tasks=(VALUES,),
)
