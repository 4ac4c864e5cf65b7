"""Jamba: layers of selective states, and attention and experts in those that periods and offsets name.

What steers the states passes norms of its own, over the rank of the time steps and over the states, whose sizes stay.

Source: Lieber et al., "Jamba: A Hybrid Transformer-Mamba Language Model", arXiv 2403.19887; transformers
`JambaForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Family, InPieces, Parameter, Refusal, Size
from ckptgrow.families.mamba_rows import FINAL_LAYERNORM, NORMS_BEFORE_PARTS
from ckptgrow.families.rows import ATTENTION, EMBEDDING, LAYER, SIZES, TIE
from ckptgrow.families.task_rows import SEQUENCE, VALUES

MIXER, BLOCK = LAYER + "mamba.", LAYER + "feed_forward."
EXPERT = BLOCK + "experts.{expert}."
WHERE_STATES = "but every attention"
STATES = (
    Parameter(MIXER + "A_log", "channels: state", layers=WHERE_STATES),
    Parameter(MIXER + "D", "channels", layers=WHERE_STATES),
    Parameter(MIXER + "conv1d.weight", "channels <- 1 taps", layers=WHERE_STATES),
    Parameter(MIXER + "conv1d.bias", "channels", when="mamba_conv_bias", layers=WHERE_STATES),
    Parameter(MIXER + "in_proj.weight", "(2 channels) <- normed", layers=WHERE_STATES),
    Parameter(MIXER + "in_proj.bias", "(2 channels)", when="mamba_proj_bias", layers=WHERE_STATES),
    Parameter(MIXER + "x_proj.weight", "(rank + 2 state) <- channels", layers=WHERE_STATES),
    Parameter(MIXER + "dt_proj.weight", "channels <- rank", layers=WHERE_STATES),
    Parameter(MIXER + "dt_proj.bias", "channels", layers=WHERE_STATES),
    Parameter(MIXER + "out_proj.weight", "residual <- channels", layers=WHERE_STATES),
    Parameter(MIXER + "out_proj.bias", "residual", when="mamba_proj_bias", layers=WHERE_STATES),
    Parameter(MIXER + "dt_layernorm.weight", "gain rank", layers=WHERE_STATES),
    Parameter(MIXER + "b_layernorm.weight", "gain state", layers=WHERE_STATES),
    Parameter(MIXER + "c_layernorm.weight", "gain state", layers=WHERE_STATES),
)
EXPERTS = (
    Parameter(BLOCK + "router.weight", "experts <- normed"),
    Parameter(BLOCK + "experts.gate_up_proj", "experts: (2! ffn) <- normed"),
    Parameter(BLOCK + "experts.down_proj", "routed <: residual <- ffn"),
)
DENSE = (
    Parameter(BLOCK + "gate_proj.weight", "ffn <- normed"),
    Parameter(BLOCK + "up_proj.weight", "ffn! <- normed"),
    Parameter(BLOCK + "down_proj.weight", "residual <- ffn"),
)
SEVERAL, SINGLE = "num_experts != 1", "num_experts == 1"  # one expert is a dense block

FAMILY = Family(
    model_type="jamba",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={
        **SIZES,
        "head": Size(ratio=("residual", "heads")),
        "experts": Size(config="num_experts"),
        "routed": Size(same="experts"),
        "expansion": Size(config="mamba_expand"),
        "channels": Size(product=("expansion", "residual")),
        "state": Size(config="mamba_d_state"),
        "rank": Size(config="mamba_dt_rank"),
        "taps": Size(config="mamba_d_conv"),
    },
    parameters=(
        EMBEDDING,
        *STATES,
        *(replace(one, layers="every attention") for one in ATTENTION),
        *(replace(one, when=SEVERAL, layers="every experts") for one in EXPERTS),
        *(replace(one, when=SEVERAL, layers="but every experts") for one in DENSE),
        *(replace(one, when=SINGLE) for one in DENSE),
        *NORMS_BEFORE_PARTS,
        *FINAL_LAYERNORM,
    ),
    pieces=(
        InPieces(
            BLOCK + "experts.gate_up_proj",
            (
                Parameter(EXPERT + "gate_proj.weight", "ffn <- normed"),
                Parameter(EXPERT + "up_proj.weight", "ffn! <- normed"),
            ),
        ),
        InPieces(BLOCK + "experts.down_proj", (Parameter(EXPERT + "down_proj.weight", "residual <- ffn"),)),
    ),
    tie=TIE,
    dropout=("attention_dropout",),
    units=("heads", "kv_heads", "ffn", "channels"),
    periodic={
        "attention": ("attn_layer_period", "attn_layer_offset"),
        "experts": ("expert_layer_period", "expert_layer_offset"),
    },
    aliases={"num_local_experts": "num_experts"},
    refusals=(
        Refusal("hidden", "the number of its states' channels follows the hidden size; ⟦factor K⟧ multiplies both"),
    ),
    tasks=(SEQUENCE, VALUES),
)
