"""Bamba: layers of Mamba-2's states, and attention in those whose numbers its config lists.

Source: IBM, Princeton, CMU and UIUC, "Bamba", 2024; transformers `BambaForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Family, Parameter, Size
from ckptgrow.families.mamba_rows import FOLLOWS_HIDDEN, UNITS, mixer, state_sizes
from ckptgrow.families.rows import ATTENTION, ATTENTION_BIASES, EMBEDDING, LAYER, SIZES, TIE
from ckptgrow.families.task_rows import VALUES

NUMBERS = "attn_layer_indices"
FFN = LAYER + "feed_forward."
SIZES_WITH_STATES = {
    **SIZES,
    **state_sizes(
        heads="mamba_n_heads",
        head="mamba_d_head",
        groups="mamba_n_groups",
        state="mamba_d_state",
        taps="mamba_d_conv",
        inner=Size(product=("expansion", "residual")),
    ),
}

FAMILY = Family(
    model_type="bamba",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=SIZES_WITH_STATES,
    parameters=(
        EMBEDDING,
        Parameter(FFN + "gate_proj.weight", "ffn <- normed"),
        Parameter(FFN + "gate_proj.bias", "ffn", when="mlp_bias"),
        Parameter(FFN + "up_proj.weight", "ffn! <- normed"),
        Parameter(FFN + "up_proj.bias", "ffn!", when="mlp_bias"),
        Parameter(FFN + "down_proj.weight", "residual <- ffn"),
        Parameter(FFN + "down_proj.bias", "residual", when="mlp_bias"),
        Parameter(LAYER + "input_layernorm.weight", "gain normed"),
        Parameter(LAYER + "pre_ff_layernorm.weight", "gain normed"),
        *mixer(LAYER + "mamba.", bias="mamba_proj_bias", conv_bias="mamba_conv_bias", layers=f"not in {NUMBERS}"),
        *(replace(one, layers=f"in {NUMBERS}") for one in (*ATTENTION, *ATTENTION_BIASES)),
        Parameter("model.final_layernorm.weight", "gain final"),
        Parameter("lm_head.weight", "vocab <- final"),
    ),
    tie=TIE,
    dropout=("attention_dropout",),
    units=("heads", "kv_heads", "ffn", "inner", *UNITS),
    layer_numbers=(NUMBERS,),
    refusals=(FOLLOWS_HIDDEN,),
    tasks=(VALUES,),
)
