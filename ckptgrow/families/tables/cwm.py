"""Code World Model: Llama's blocks, with windows in three of four layers.

Source: FAIR CodeGen Team, "CWM", arXiv 2510.02387; transformers `CwmForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.rows import ATTENTION, EMBEDDING, FFN_BIASES, FINAL, GATED_FFN, NORMS
from ckptgrow.families.tables.llama import FAMILY as LLAMA
from ckptgrow.families.task_rows import VALUES

FAMILY = replace(
    LLAMA,
    model_type="cwm",
    parameters=(EMBEDDING, *ATTENTION, *GATED_FFN, *FFN_BIASES, *NORMS, *FINAL),
    buffers=(),
    layer_lists=("layer_types",),
    tasks=(VALUES,),
)
