"""Apertus: one matrix into the feed-forward units and xIELU, whose two slopes are trained in each layer.

Source: Swiss AI Initiative, "Apertus", arXiv 2509.14233; xIELU: Huang & Schlag, arXiv 2411.13010; transformers
`ApertusForCausalLM`.
"""

from ckptgrow.families.family import Family, Parameter, Refusal
from ckptgrow.families.rows import (
    ATTENTION,
    ATTENTION_BIASES,
    EMBEDDING,
    FINAL,
    HEAD_NORMS,
    LAYER,
    OF_SHARED_EPS,
    SIZES,
    TIE,
)
from ckptgrow.families.task_rows import TOKENS, VALUES

ACTIVATION = LAYER + "mlp.act_fn."

FAMILY = Family(
    model_type="apertus",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=SIZES,
    parameters=(
        EMBEDDING,
        *ATTENTION,
        *ATTENTION_BIASES,
        *HEAD_NORMS,
        Parameter(LAYER + "mlp.up_proj.weight", "ffn <- normed"),
        Parameter(LAYER + "mlp.down_proj.weight", "residual <- ffn"),
        Parameter(ACTIVATION + "alpha_p", "1", when="hidden_act == xielu"),
        Parameter(ACTIVATION + "alpha_n", "1", when="hidden_act == xielu"),
        Parameter(LAYER + "attention_layernorm.weight", "gain normed"),
        Parameter(LAYER + "feedforward_layernorm.weight", "gain normed"),
        *FINAL,
    ),
    tie=TIE,
    padding=OF_SHARED_EPS,
    buffers=(ACTIVATION + "beta", ACTIVATION + "eps"),
    dropout=("attention_dropout",),
    refusals=(Refusal("zero-norm", "xIELU is not zero at zero (its ε is added there); use ⟦new zero-output⟧"),),
    tasks=(TOKENS, VALUES),
)
