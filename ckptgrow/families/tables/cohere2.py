"""Cohere's Command A: Command R's blocks, with windows where positions are rotated, and none where attention is global.

Source: Cohere, "Command A", arXiv 2504.00698; transformers `Cohere2ForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Size
from ckptgrow.families.rows import SIZES
from ckptgrow.families.tables.cohere import FAMILY as COHERE

FAMILY = replace(
    COHERE,
    model_type="cohere2",
    sizes={**SIZES, "head": Size(ratio=("residual", "heads"))},
    parameters=tuple(one for one in COHERE.parameters if one.when != "use_qk_norm"),
    layer_lists=("layer_types",),
    refusals=(),
)
