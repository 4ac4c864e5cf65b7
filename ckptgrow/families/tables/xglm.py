"""XGLM: norms before each block, and sines as positions, which the model makes of its hidden size.

Source: Lin et al., "Few-shot Learning with Multilingual Language Models", arXiv 2112.10668; transformers
`XGLMForCausalLM`.
"""

from ckptgrow.families.family import Family, Parameter, Refusal, Size, Tie

LAYER = "model.layers.{layer}."
ATTENTION = LAYER + "self_attn."
SINES = "its positions are sines of half as many frequencies as the hidden size, and with it each would be another"

FAMILY = Family(
    model_type="xglm",
    base_prefix="model.",
    num_layers="num_layers",
    sizes={
        "vocab": Size(config="vocab_size"),
        "residual": Size(config="d_model"),
        "normed": Size(same="residual"),
        "final": Size(same="residual"),
        "heads": Size(config="attention_heads"),
        "head": Size(ratio=("residual", "heads")),
        "ffn": Size(config="ffn_dim"),
    },
    parameters=(
        Parameter("model.embed_tokens.weight", "vocab -> residual"),
        Parameter(ATTENTION + "k_proj.weight", "(heads head) <- normed"),
        Parameter(ATTENTION + "k_proj.bias", "(heads head)"),
        Parameter(ATTENTION + "v_proj.weight", "(heads! head) <- normed"),
        Parameter(ATTENTION + "v_proj.bias", "(heads! head)"),
        Parameter(ATTENTION + "q_proj.weight", "(heads head) <- normed"),
        Parameter(ATTENTION + "q_proj.bias", "(heads head)"),
        Parameter(ATTENTION + "out_proj.weight", "residual <- (heads head)"),
        Parameter(ATTENTION + "out_proj.bias", "residual"),
        Parameter(LAYER + "self_attn_layer_norm.weight", "gain normed"),
        Parameter(LAYER + "self_attn_layer_norm.bias", "normed"),
        Parameter(LAYER + "fc1.weight", "ffn! <- normed"),
        Parameter(LAYER + "fc1.bias", "ffn!"),
        Parameter(LAYER + "fc2.weight", "residual <- ffn"),
        Parameter(LAYER + "fc2.bias", "residual"),
        Parameter(LAYER + "final_layer_norm.weight", "gain normed"),
        Parameter(LAYER + "final_layer_norm.bias", "normed"),
        Parameter("model.layer_norm.weight", "gain final"),
        Parameter("model.layer_norm.bias", "final"),
        Parameter("lm_head.weight", "vocab <- final"),
    ),
    tie=Tie(head="lm_head.weight", embedding="model.embed_tokens.weight"),
    activation="activation_function",
    dropout=("dropout", "attention_dropout", "activation_dropout", "layerdrop"),
    aliases={"num_attention_heads": "attention_heads", "hidden_size": "d_model", "num_hidden_layers": "num_layers"},
    refusals=(
        Refusal("residual", f"{SINES}; ⟦ffn N⟧ and ckptgrow depth grow the rest"),
        Refusal("tensors", "layers that also read an encoder are not in its table", when="add_cross_attention"),
    ),
)
