"""Rows of layers with a gated delta rule, and of the gated attention beside them, which Qwen's hybrids share.

A layer's state holds a matrix for each value head; several of them may read one key head. Copies of both serve each
other as before. The sizes of the heads stay, because their norms and the scale of queries depend on them.

Source: Yang, Kautz, Hatamizadeh, "Gated Delta Networks", arXiv 2412.06464; transformers `Qwen3NextGatedDeltaNet`.
"""

from dataclasses import replace

from ckptgrow.families.family import Parameter, Size
from ckptgrow.families.rows import LAYER

DELTA, FULL = "layer_types == linear_attention", "layer_types == full_attention"
MIXER = LAYER + "linear_attn."
CHANNELS = "(key_heads key_head + key_heads key_head + value_heads value_head)"

DELTA_SIZES = {
    "key_heads": Size(config="linear_num_key_heads"),
    "value_heads": Size(config="linear_num_value_heads"),
    "key_head": Size(config="linear_key_head_dim"),
    "value_head": Size(config="linear_value_head_dim"),
    "taps": Size(config="linear_conv_kernel_dim"),
}

DELTA_BEGIN = (
    Parameter(MIXER + "dt_bias", "value_heads", layers=DELTA),
    Parameter(MIXER + "A_log", "value_heads", layers=DELTA),
    Parameter(MIXER + "conv1d.weight", CHANNELS + " <- 1 taps", layers=DELTA),
)
DELTA_END = (
    Parameter(MIXER + "norm.weight", "gain value_head", layers=DELTA),
    Parameter(MIXER + "out_proj.weight", "residual <- (value_heads value_head)", layers=DELTA),
)

GATED_ATTENTION = tuple(
    replace(one, layers=FULL)
    for one in (
        Parameter(LAYER + "self_attn.q_proj.weight", "(heads 2 head) <- normed"),
        Parameter(LAYER + "self_attn.q_proj.bias", "(heads 2 head)", when="attention_bias"),
        Parameter(LAYER + "self_attn.k_proj.weight", "(kv_heads head) <- normed"),
        Parameter(LAYER + "self_attn.k_proj.bias", "(kv_heads head)", when="attention_bias"),
        Parameter(LAYER + "self_attn.v_proj.weight", "(kv_heads! head) <- normed"),
        Parameter(LAYER + "self_attn.v_proj.bias", "(kv_heads! head)", when="attention_bias"),
        Parameter(LAYER + "self_attn.o_proj.weight", "residual <- (heads head)"),
        Parameter(LAYER + "self_attn.o_proj.bias", "residual", when="attention_bias"),
        Parameter(LAYER + "self_attn.q_norm.weight", "1+gain head"),
        Parameter(LAYER + "self_attn.k_norm.weight", "1+gain head"),
    )
)
NORMS_WITHOUT_ONE = (
    Parameter(LAYER + "input_layernorm.weight", "1+gain normed"),
    Parameter(LAYER + "post_attention_layernorm.weight", "1+gain normed"),
)
