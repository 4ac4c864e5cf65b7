"""LFM2: gated short convolutions, each channel by itself, beside attention; a tied head.

A convolution has as many channels as the residual stream, and each is a product of three.

Source: Liquid AI, "LFM2 Technical Report", arXiv 2511.23404; transformers `Lfm2ForCausalLM`.
"""

from ckptgrow.families.family import Family, Parameter, Refusal, Rounding, Size
from ckptgrow.families.rows import EMBEDDING, LAYER, SIZES, TIE
from ckptgrow.families.task_rows import VALUES

CONVOLUTION, FULL = "layer_types == conv", "layer_types == full_attention"
CONV, ATTENTION = LAYER + "conv.", LAYER + "self_attn."

FAMILY = Family(
    model_type="lfm2",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={**SIZES, "channels": Size(same="residual"), "taps": Size(config="conv_L_cache")},
    parameters=(
        EMBEDDING,
        Parameter(CONV + "conv.weight", "channels <- 1 taps", layers=CONVOLUTION),
        Parameter(CONV + "conv.bias", "channels", when="conv_bias", layers=CONVOLUTION),
        Parameter(CONV + "in_proj.weight", "(3 channels) <- normed", layers=CONVOLUTION),
        Parameter(CONV + "in_proj.bias", "(3 channels)", when="conv_bias", layers=CONVOLUTION),
        Parameter(CONV + "out_proj.weight", "residual <- channels", layers=CONVOLUTION),
        Parameter(CONV + "out_proj.bias", "residual", when="conv_bias", layers=CONVOLUTION),
        Parameter(ATTENTION + "q_proj.weight", "(heads head) <- normed", layers=FULL),
        Parameter(ATTENTION + "k_proj.weight", "(kv_heads head) <- normed", layers=FULL),
        Parameter(ATTENTION + "v_proj.weight", "(kv_heads! head) <- normed", layers=FULL),
        Parameter(ATTENTION + "out_proj.weight", "residual <- (heads head)", layers=FULL),
        Parameter(ATTENTION + "q_layernorm.weight", "gain head", layers=FULL),
        Parameter(ATTENTION + "k_layernorm.weight", "gain head", layers=FULL),
        Parameter(LAYER + "feed_forward.w1.weight", "ffn <- normed"),
        Parameter(LAYER + "feed_forward.w3.weight", "ffn! <- normed"),
        Parameter(LAYER + "feed_forward.w2.weight", "residual <- ffn"),
        Parameter(LAYER + "operator_norm.weight", "gain normed"),
        Parameter(LAYER + "ffn_norm.weight", "gain normed"),
        Parameter("model.embedding_norm.weight", "gain final"),
        Parameter("lm_head.weight", "vocab <- final"),
    ),
    tie=TIE,
    residual=("residual", "normed", "final", "channels"),
    layer_lists=("layer_types",),
    rounding=Rounding(
        when="block_auto_adjust_ff_dim",
        field="intermediate_size",
        multiplier="block_ffn_dim_multiplier",
        multiple="block_multiple_of",
    ),
    aliases={"block_ff_dim": "intermediate_size", "tie_embedding": "tie_word_embeddings"},
    refusals=(
        Refusal(
            "hidden",
            "new channels of its convolutions, whose factors are all zero, would be dead for ever; ⟦factor K⟧ "
            "multiplies the hidden size",
        ),
    ),
    tasks=(VALUES,),
)
