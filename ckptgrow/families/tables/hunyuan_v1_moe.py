"""Hunyuan's mixtures: the dense models' attention, and experts beside a block that every token has.

Source: Tencent Hunyuan, "Hunyuan-A13B Technical Report", 2025; transformers `HunYuanMoEV1ForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Choice, Parameter, Size
from ckptgrow.families.rows import EXPERTS, FINAL, GATED_FFN, LAYER, NORMS, PIECES_OF_EXPERTS, SIZES
from ckptgrow.families.tables.hunyuan_v1_dense import FAMILY as HUNYUAN_V1_DENSE

FIRST = HUNYUAN_V1_DENSE.parameters.index(GATED_FFN[0])

FAMILY = replace(
    HUNYUAN_V1_DENSE,
    model_type="hunyuan_v1_moe",
    sizes={**SIZES, "experts": Size(config="num_experts"), "routed": Size(same="experts")},
    parameters=(
        *HUNYUAN_V1_DENSE.parameters[:FIRST],
        Parameter(LAYER + "mlp.gate.wg.weight", "experts <- normed"),
        *EXPERTS[1:],
        *(replace(one, name=one.name.replace("mlp.", "mlp.shared_mlp.")) for one in GATED_FFN),
        *NORMS,
        *FINAL,
    ),
    pieces=PIECES_OF_EXPERTS,
    aliases={"num_local_experts": "num_experts", "num_experts_per_tok": "moe_topk"},
    choice=Choice(chosen="moe_topk"),
)
