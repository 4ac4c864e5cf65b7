"""CodeGen: GPT-J's blocks, whose queries, values and keys lie in one tensor of four parts with a quarter of the heads.

Source: Nijkamp et al., "CodeGen", arXiv 2203.13474; transformers `CodeGenForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import UNITS, Parameter, Refusal, Size
from ckptgrow.families.tables.gptj import FAMILY as GPTJ
from ckptgrow.families.tables.gptj import LAYER, NORM, REST
from ckptgrow.families.task_rows import VALUES

FAMILY = replace(
    GPTJ,
    model_type="codegen",
    sizes={**GPTJ.sizes, "quarter": Size(share=(4, "heads"))},
    parameters=(
        Parameter("transformer.wte.weight", "vocab -> residual"),
        *NORM,
        Parameter(LAYER + "attn.qkv_proj.weight", "(4 3 quarter head) <- normed"),
        replace(REST[0], layout="residual <- (4 quarter head)"),
        *REST[1:],
    ),
    buffers=(LAYER + "attn.causal_mask",),
    padding=None,
    units=(*UNITS, "quarter"),
    refusals=(
        Refusal(
            "hidden",
            "more heads would have to be new ones in each of its four parts; ⟦factor K⟧ multiplies the hidden size",
        ),
    ),
    tasks=(VALUES,),
)
