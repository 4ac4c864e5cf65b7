"""GLM-4.7 Flash: DeepSeek-V3's latent attention and experts; a list says which layers are dense.

Source: Z.ai, "GLM-4.7-Flash", 2026; transformers `Glm4MoeLiteForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.derived_rows import by_list
from ckptgrow.families.tables.deepseek_v3 import FAMILY as DEEPSEEK_V3
from ckptgrow.families.task_rows import VALUES

FAMILY = replace(
    DEEPSEEK_V3,
    model_type="glm4_moe_lite",
    parameters=by_list(DEEPSEEK_V3.parameters, "mlp_layer_types"),
    layer_lists=("mlp_layer_types",),
    sparse=None,
    aliases={"num_local_experts": "n_routed_experts", "head_dim": "qk_rope_head_dim"},
    tasks=(VALUES,),
)
