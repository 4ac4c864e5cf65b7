"""Youtu-LLM: DeepSeek-V3's latent attention in a dense model.

Source: Tencent Youtu Lab, "Youtu-LLM", 2025; transformers `YoutuForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Choice, Size
from ckptgrow.families.rows import DENSE_LAYERS, FINAL, GATED_FFN, NORMS, TIE
from ckptgrow.families.tables.deepseek_v3 import FAMILY as DEEPSEEK_V3
from ckptgrow.families.task_rows import VALUES

OF_MIXTURES = ("dense_ffn", "experts", "routed", "choice", "shared")
NUM_BEFORE_BLOCKS = DEEPSEEK_V3.parameters.index(DENSE_LAYERS[0])

FAMILY = replace(
    DEEPSEEK_V3,
    model_type="youtu",
    sizes={
        **{space: size for space, size in DEEPSEEK_V3.sizes.items() if space not in OF_MIXTURES},
        "ffn": Size(config="intermediate_size"),
    },
    parameters=(*DEEPSEEK_V3.parameters[:NUM_BEFORE_BLOCKS], *GATED_FFN, *NORMS, *FINAL),
    pieces=(),
    tie=replace(TIE, default=True),
    buffers=(),
    choice=Choice(),
    sparse=None,
    aliases={},
    tasks=(VALUES,),
)
