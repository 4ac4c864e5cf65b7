"""Falcon-H1: attention and Mamba-2's states side by side in each layer, with multipliers all over.

Source: Zuo et al., "Falcon-H1", arXiv 2507.22448; transformers `FalconH1ForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding, Parameter, Refusal, Size
from ckptgrow.families.mamba_rows import UNITS, mixer, state_sizes
from ckptgrow.families.rows import ATTENTION, ATTENTION_BIASES, EMBEDDING, LAYER, SIZES, TIE
from ckptgrow.families.task_rows import VALUES

FFN = LAYER + "feed_forward."

FAMILY = Family(
    model_type="falcon_h1",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={
        **SIZES,
        **state_sizes(
            heads="mamba_n_heads",
            head="mamba_d_head",
            groups="mamba_n_groups",
            state="mamba_d_state",
            taps="mamba_d_conv",
            inner=Size(config="mamba_d_ssm", product=("expansion", "residual")),
        ),
    },
    parameters=(
        EMBEDDING,
        Parameter(FFN + "gate_proj.weight", "ffn <- normed"),
        Parameter(FFN + "gate_proj.bias", "ffn", when="mlp_bias"),
        Parameter(FFN + "up_proj.weight", "ffn! <- normed"),
        Parameter(FFN + "up_proj.bias", "ffn!", when="mlp_bias"),
        Parameter(FFN + "down_proj.weight", "residual <- ffn"),
        Parameter(FFN + "down_proj.bias", "residual", when="mlp_bias"),
        *mixer(
            LAYER + "mamba.",
            bias="mamba_proj_bias",
            conv_bias="mamba_conv_bias",
            out_bias="projectors_bias",
            norm="mamba_rms_norm",
        ),
        *ATTENTION,
        *ATTENTION_BIASES,
        Parameter(LAYER + "input_layernorm.weight", "gain normed"),
        Parameter(LAYER + "pre_ff_layernorm.weight", "gain normed"),
        Parameter("model.final_layernorm.weight", "gain final"),
        Parameter("lm_head.weight", "vocab <- final"),
    ),
    tie=TIE,
    padding=Padding("rms", "rms_norm_eps"),
    dropout=("attention_dropout",),
    units=("heads", "kv_heads", "ffn", "inner", *UNITS),
    refusals=(
        Refusal("hidden", "the norm over its states' heads shares the ε that would change", when="mamba_rms_norm"),
        Refusal("hidden", "the number of its states' heads follows the hidden size", when="not mamba_d_ssm"),
    ),
    tasks=(VALUES,),
)
