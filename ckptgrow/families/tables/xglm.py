"""XGLM: norms before each block, and sines as positions, which the model makes of its hidden size.

Source: Lin et al., "Few-shot Learning with Multilingual Language Models", arXiv 2112.10668; transformers
`XGLMForCausalLM`.
"""

from ckptgrow.families.family import Family, Parameter, Refusal, Size, Tie
from ckptgrow.families.translation_rows import attention, feed_forward, norm

LAYER = "model.layers.{layer}."
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
        *attention(LAYER + "self_attn.", "heads", "normed", "residual"),
        *norm(LAYER + "self_attn_layer_norm", "normed"),
        *feed_forward(LAYER, "ffn", "normed", "residual"),
        *norm(LAYER + "final_layer_norm", "normed"),
        *norm("model.layer_norm", "final"),
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
