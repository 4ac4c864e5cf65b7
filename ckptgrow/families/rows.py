"""Rows that the tables of llama's relatives share; names are those below `model.layers.{layer}`."""

from ckptgrow.families.family import Parameter, Size, Tie

LAYER = "model.layers.{layer}."

SIZES = {
    "vocab": Size("vocab_size"),
    "residual": Size("hidden_size"),
    "normed": Size(same="residual"),
    "final": Size(same="residual"),
    "heads": Size("num_attention_heads"),
    "kv_heads": Size("num_key_value_heads", same="heads"),
    "head": Size("head_dim", ratio=("residual", "heads")),
    "ffn": Size("intermediate_size"),
}

EMBEDDING = Parameter("model.embed_tokens.weight", "vocab -> residual")

ATTENTION = (
    Parameter(LAYER + "self_attn.q_proj.weight", "(heads head) <- normed"),
    Parameter(LAYER + "self_attn.k_proj.weight", "(kv_heads head) <- normed"),
    Parameter(LAYER + "self_attn.v_proj.weight", "(kv_heads head) <- normed"),
    Parameter(LAYER + "self_attn.o_proj.weight", "residual <- (heads head)"),
)

ATTENTION_BIASES = (
    Parameter(LAYER + "self_attn.q_proj.bias", "(heads head)", when="attention_bias"),
    Parameter(LAYER + "self_attn.k_proj.bias", "(kv_heads head)", when="attention_bias"),
    Parameter(LAYER + "self_attn.v_proj.bias", "(kv_heads head)", when="attention_bias"),
    Parameter(LAYER + "self_attn.o_proj.bias", "residual", when="attention_bias"),
)

HEAD_NORMS = (
    Parameter(LAYER + "self_attn.q_norm.weight", "gain head"),
    Parameter(LAYER + "self_attn.k_norm.weight", "gain head"),
)

GATED_FFN = (
    Parameter(LAYER + "mlp.gate_proj.weight", "ffn <- normed"),
    Parameter(LAYER + "mlp.up_proj.weight", "ffn <- normed"),
    Parameter(LAYER + "mlp.down_proj.weight", "residual <- ffn"),
)

NORMS = (
    Parameter(LAYER + "input_layernorm.weight", "gain normed"),
    Parameter(LAYER + "post_attention_layernorm.weight", "gain normed"),
)

FINAL = (
    Parameter("model.norm.weight", "gain final"),
    Parameter("lm_head.weight", "vocab <- final"),
)

TIE = Tie(head="lm_head.weight", embedding="model.embed_tokens.weight", default=False)

INVERSE_FREQUENCIES = (LAYER + "self_attn.rotary_emb.inv_freq",)  # written by transformers before 4.32
