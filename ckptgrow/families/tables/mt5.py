"""mT5: T5 with gated units, whose tied head reads the decoder's outputs as they are.

Source: Xue et al., "mT5", arXiv 2010.11934; transformers `MT5ForConditionalGeneration`.
"""

from dataclasses import replace

from ckptgrow.families.family import Padding, Parameter
from ckptgrow.families.tables.t5 import FAMILY as T5

FAMILY = replace(
    T5,
    model_type="mt5",
    sizes={space: size for space, size in T5.sizes.items() if space != "scaled"},
    parameters=(*T5.parameters[:-1], Parameter("lm_head.weight", "vocab <- final")),
    padding=Padding("rms", "layer_norm_epsilon"),
    residual=("residual", "normed", "encoded", "final"),
    shrunken={},
    shrunken_tied={"final": 1.0},
    made={},
    refusals=tuple(one for one in T5.refusals if one.when != "not scale_decoder_outputs"),
    tasks=tuple(replace(one, padding=None) for one in T5.tasks),
)
