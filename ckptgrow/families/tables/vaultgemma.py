"""VaultGemma: Gemma 2's blocks without the norms behind each part.

Source: Google, "VaultGemma", 2025; transformers `VaultGemmaForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Parameter
from ckptgrow.families.rows import LAYER
from ckptgrow.families.tables.gemma import FAMILY as GEMMA
from ckptgrow.families.task_rows import VALUES

FAMILY = replace(
    GEMMA,
    model_type="vaultgemma",
    parameters=tuple(
        Parameter(LAYER + "pre_feedforward_layernorm.weight", one.layout)
        if one.name.endswith("post_attention_layernorm.weight")
        else one
        for one in GEMMA.parameters
    ),
    buffers=(),
    layer_lists=("layer_types",),
    tasks=(VALUES,),
)
