"""MiniCPM3: latent attention in a dense model with muP's factors: of the embedding, of every block, and of the head.

Blocks are multiplied by `scale_depth` / √layers, which a deeper config says again. Outputs are divided by hidden /
`dim_model_base` before the head: k times the hidden size makes that 1/k, and k copies that a head reads need no more.

Source: Hu et al., "MiniCPM", arXiv 2404.06395; transformers `MiniCPM3ForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Padding, Parameter, Refusal, Size
from ckptgrow.families.rows import FFN_BIASES, FINAL, GATED_FFN, NORMS, TIE
from ckptgrow.families.tables.deepseek_v3 import FAMILY as DEEPSEEK_V3
from ckptgrow.families.tables.youtu import FAMILY as YOUTU
from ckptgrow.families.tables.youtu import NUM_BEFORE_BLOCKS
from ckptgrow.families.task_rows import SEQUENCE, VALUES

UNSAID = "its config leaves {} to the model's size, and a grown config would say another; write it into the config"

FAMILY = replace(
    YOUTU,
    model_type="minicpm3",
    sizes={
        **YOUTU.sizes,
        "head": Size(config="v_head_dim", ratio=("residual", "heads")),
        "scaled": Size(same="residual"),
    },
    parameters=(
        *DEEPSEEK_V3.parameters[:NUM_BEFORE_BLOCKS],
        *GATED_FFN,
        *FFN_BIASES,
        *NORMS,
        FINAL[0],
        Parameter("lm_head.weight", "vocab <- scaled"),
    ),
    tie=replace(TIE, default=True),
    residual=(*YOUTU.residual, "scaled"),
    made={"scaled": "final"},
    shrunken={"scaled": 1.0},
    shrunken_tied={"scaled": 1.0},
    padding=Padding("rms", "rms_norm_eps", scale={"final": 1.0}, scale_tied={"final": 1.0}),
    of_depth={"scale_depth": 0.5},
    refusals=(
        *(Refusal(one, UNSAID.format("dim_model_base"), when="not dim_model_base") for one in ("width", "hidden")),
        Refusal("depth", UNSAID.format("scale_depth"), when="not scale_depth"),
    ),
    tasks=(SEQUENCE, VALUES),
)
