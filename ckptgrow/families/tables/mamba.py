"""Mamba: layers of selective states, each channel by itself, steered by projections that read all channels.

Source: Gu and Dao, "Mamba", arXiv 2312.00752; transformers `MambaForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding, Parameter, Size, Tie

LAYER = "backbone.layers.{layer}."
MIXER = LAYER + "mixer."

FAMILY = Family(
    model_type="mamba",
    base_prefix="backbone.",
    num_layers="num_hidden_layers",
    sizes={
        "vocab": Size(config="vocab_size"),
        "residual": Size(config="hidden_size"),
        "normed": Size(same="residual"),
        "final": Size(same="residual"),
        "channels": Size(config="intermediate_size"),
        "state": Size(config="state_size"),
        "rank": Size(config="time_step_rank"),
        "taps": Size(config="conv_kernel"),
    },
    parameters=(
        Parameter("backbone.embeddings.weight", "vocab -> residual"),
        Parameter(LAYER + "norm.weight", "gain normed"),
        Parameter(MIXER + "A_log", "channels: state"),
        Parameter(MIXER + "D", "channels"),
        Parameter(MIXER + "conv1d.weight", "channels <- 1 taps"),
        Parameter(MIXER + "conv1d.bias", "channels", when="use_conv_bias"),
        Parameter(MIXER + "in_proj.weight", "(2 channels) <- normed"),
        Parameter(MIXER + "in_proj.bias", "(2 channels)", when="use_bias"),
        Parameter(MIXER + "x_proj.weight", "(rank + 2 state) <- channels"),
        Parameter(MIXER + "dt_proj.weight", "channels <- rank"),
        Parameter(MIXER + "dt_proj.bias", "channels"),
        Parameter(MIXER + "out_proj.weight", "residual <- channels"),
        Parameter(MIXER + "out_proj.bias", "residual", when="use_bias"),
        Parameter("backbone.norm_f.weight", "gain final"),
        Parameter("lm_head.weight", "vocab <- final"),
    ),
    tie=Tie(head="lm_head.weight", embedding="backbone.embeddings.weight"),
    units=("channels",),
    padding=Padding("rms", "layer_norm_epsilon"),
)
