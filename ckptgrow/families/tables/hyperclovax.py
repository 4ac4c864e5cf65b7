"""HyperCLOVA X: Granite's blocks and multipliers, with a norm more behind each part where the config says so.

Source: NAVER Cloud, "HyperCLOVA X SEED Think", 2025; transformers `HyperCLOVAXForCausalLM`.
"""

from ckptgrow.families.derived_rows import in_branches
from ckptgrow.families.family import Family, Padding, Parameter, Size
from ckptgrow.families.rows import (
    ATTENTION,
    ATTENTION_BIASES,
    EMBEDDING,
    FFN_BIASES,
    FINAL,
    GATED_FFN,
    LAYER,
    NORMS,
    SIZES,
    TIE,
)
from ckptgrow.families.task_rows import VALUES

POST_NORM = "use_post_norm"

FAMILY = Family(
    model_type="hyperclovax",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={**SIZES, "branch": Size(same="residual")},
    parameters=(
        EMBEDDING,
        *in_branches((*ATTENTION, *ATTENTION_BIASES, *GATED_FFN, *FFN_BIASES), POST_NORM),
        *NORMS,
        Parameter(LAYER + "post_norm1.weight", "gain residual", when=POST_NORM),
        Parameter(LAYER + "post_norm2.weight", "gain residual", when=POST_NORM),
        *FINAL,
    ),
    tie=TIE,
    padding=Padding("rms", "rms_norm_eps"),
    dropout=("attention_dropout",),
    residual=("residual", "normed", "final", "branch"),
    tasks=(VALUES,),
)
