"""Rows that the tables of Llama's relatives share."""

from dataclasses import replace

from ckptgrow.families.family import Choice, InPieces, Padding, Parameter, Refusal, Size, Tie

LAYER = "model.layers.{layer}."

SIZES = {
    "vocab": Size(config="vocab_size"),
    "residual": Size(config="hidden_size"),
    "normed": Size(same="residual"),
    "final": Size(same="residual"),
    "heads": Size(config="num_attention_heads"),
    "kv_heads": Size(config="num_key_value_heads", same="heads"),
    "head": Size(config="head_dim", ratio=("residual", "heads")),
    "ffn": Size(config="intermediate_size"),
}

EMBEDDING = Parameter("model.embed_tokens.weight", "vocab -> residual")

ATTENTION = (
    Parameter(LAYER + "self_attn.q_proj.weight", "(heads head) <- normed"),
    Parameter(LAYER + "self_attn.k_proj.weight", "(kv_heads head) <- normed"),
    Parameter(LAYER + "self_attn.v_proj.weight", "(kv_heads! head) <- normed"),
    Parameter(LAYER + "self_attn.o_proj.weight", "residual <- (heads head)"),
)

ATTENTION_BIASES = (
    Parameter(LAYER + "self_attn.q_proj.bias", "(heads head)", when="attention_bias"),
    Parameter(LAYER + "self_attn.k_proj.bias", "(kv_heads head)", when="attention_bias"),
    Parameter(LAYER + "self_attn.v_proj.bias", "(kv_heads! head)", when="attention_bias"),
    Parameter(LAYER + "self_attn.o_proj.bias", "residual", when="attention_bias"),
)

HEAD_NORMS = (
    Parameter(LAYER + "self_attn.q_norm.weight", "gain head"),
    Parameter(LAYER + "self_attn.k_norm.weight", "gain head"),
)

GATED_FFN = (
    Parameter(LAYER + "mlp.gate_proj.weight", "ffn <- normed"),
    Parameter(LAYER + "mlp.up_proj.weight", "ffn! <- normed"),
    Parameter(LAYER + "mlp.down_proj.weight", "residual <- ffn"),
)

FFN_BIASES = (
    Parameter(LAYER + "mlp.gate_proj.bias", "ffn", when="mlp_bias"),
    Parameter(LAYER + "mlp.up_proj.bias", "ffn!", when="mlp_bias"),
    Parameter(LAYER + "mlp.down_proj.bias", "residual", when="mlp_bias"),
)

FUSED_FFN = (
    Parameter(LAYER + "mlp.gate_up_proj.weight", "(2! ffn) <- normed"),
    Parameter(LAYER + "mlp.down_proj.weight", "residual <- ffn"),
)

UNGATED_FFN = (
    Parameter(LAYER + "mlp.up_proj.weight", "ffn! <- normed"),
    Parameter(LAYER + "mlp.down_proj.weight", "residual <- ffn"),
)

UNGATED_FFN_BIASES = (
    Parameter(LAYER + "mlp.up_proj.bias", "ffn!", when="mlp_bias"),
    Parameter(LAYER + "mlp.down_proj.bias", "residual", when="mlp_bias"),
)

EXPERTS = (
    Parameter(LAYER + "mlp.gate.weight", "experts <- normed"),
    Parameter(LAYER + "mlp.experts.gate_up_proj", "experts: (2! ffn) <- normed"),
    Parameter(LAYER + "mlp.experts.down_proj", "routed <: residual <- ffn"),
)

SPARSE_EXPERTS = tuple(replace(one, layers="sparse") for one in (*EXPERTS[1:], EXPERTS[0]))  # the router comes last

SPARSE_EXPERTS_BEHIND_ROUTER = tuple(replace(one, layers="sparse") for one in EXPERTS)

SHARED_EXPERT = (  # behind a gate of its own
    Parameter(LAYER + "mlp.shared_expert.gate_proj.weight", "shared_ffn <- normed", layers="sparse"),
    Parameter(LAYER + "mlp.shared_expert.up_proj.weight", "shared_ffn! <- normed", layers="sparse"),
    Parameter(LAYER + "mlp.shared_expert.down_proj.weight", "residual <- shared_ffn", layers="sparse"),
    Parameter(LAYER + "mlp.shared_expert_gate.weight", "1 <- normed", layers="sparse"),
)

EXPERT = LAYER + "mlp.experts.{expert}."
PIECES_OF_EXPERTS = (  # as files store them
    InPieces(
        LAYER + "mlp.experts.gate_up_proj",
        (
            Parameter(EXPERT + "gate_proj.weight", "ffn <- normed"),
            Parameter(EXPERT + "up_proj.weight", "ffn! <- normed"),
        ),
    ),
    InPieces(LAYER + "mlp.experts.down_proj", (Parameter(EXPERT + "down_proj.weight", "residual <- ffn"),)),
)


def mixture_sizes(experts: str, shared: str | None = None) -> dict[str, Size]:
    """The sizes of a mixture with dense layers between: `experts` and `shared` are the config fields of how many."""
    sizes = {
        **SIZES,
        "ffn": Size(config="moe_intermediate_size"),
        "dense_ffn": Size(config="intermediate_size"),
        "experts": Size(config=experts),
        "routed": Size(same="experts"),
    }
    return sizes if shared is None else {**sizes, "shared": Size(config=shared, is_optional=True)}


# scores by sigmoids, a bias for the choice alone that no gradient moves, and groups of experts, as in DeepSeek-V3
CHOSEN_BY_BIAS = Choice(
    scores="sigmoid",
    normalised="norm_topk_prob",
    bias=LAYER + "mlp.gate.e_score_correction_bias",
    groups=("n_group", "topk_group"),
)
OF_CHOICE = {"choice": Size(same="experts")}  # the space of such a bias
SHARED = LAYER + "mlp.shared_experts."


def shared_experts(number: str, bias: str | None = None) -> tuple[Parameter, ...]:
    """An expert as large as the config field `number` says, which every token has; with biases where `bias` holds."""
    rows = (
        ("gate_proj", "(shared ffn)", " <- normed"),
        ("up_proj", "(shared ffn!)", " <- normed"),
        ("down_proj", "residual", " <- (shared ffn)"),
    )
    weights = tuple(
        Parameter(f"{SHARED}{name}.weight", written + read, when=number, layers="sparse")
        for name, written, read in rows
    )
    biases = tuple(
        Parameter(f"{SHARED}{name}.bias", written, when=f"{number} and {bias}", layers="sparse")
        for name, written, _ in rows
    )
    return weights + (biases if bias else ())


OF_SHARED_EPS = Padding("rms", None, scale={"residual": 0.5}, scale_tied={"residual": 0.5, "final": -0.5})
NORMS_OVER_ALL = Refusal(
    "hidden", "norms over all queries share the ε that would change; ⟦factor K⟧ multiplies the hidden size"
)
WITHOUT_GAINS = (
    Refusal(
        "hidden",
        "its norms have no gain that could make up for new coordinates; ⟦factor K⟧ multiplies the hidden size",
    ),
    Refusal("zero-norm", "its norms have no gain that could be zero; use ⟦new zero-output⟧"),
    Refusal(
        "width",
        "its head is tied to the embedding and its final norm has no gain that could make up for the copies",
        when="tie_word_embeddings",
    ),
)

DENSE_LAYERS = (
    Parameter(LAYER + "mlp.gate_proj.weight", "dense_ffn <- normed", layers="dense"),
    Parameter(LAYER + "mlp.up_proj.weight", "dense_ffn! <- normed", layers="dense"),
    Parameter(LAYER + "mlp.down_proj.weight", "residual <- dense_ffn", layers="dense"),
)

NORMS = (
    Parameter(LAYER + "input_layernorm.weight", "gain normed"),
    Parameter(LAYER + "post_attention_layernorm.weight", "gain normed"),
)

NORM_BIASES = (
    Parameter(LAYER + "input_layernorm.bias", "normed"),
    Parameter(LAYER + "post_attention_layernorm.bias", "normed"),
)

FINAL = (
    Parameter("model.norm.weight", "gain final"),
    Parameter("lm_head.weight", "vocab <- final"),
)

TIE = Tie(head="lm_head.weight", embedding="model.embed_tokens.weight", default=False)

INVERSE_FREQUENCIES = (LAYER + "self_attn.rotary_emb.inv_freq",)  # written by transformers before 4.32

# Gemma multiplies embeddings by √hidden, which grows too: k copies of the embedding are written 1/√k
ROOT_SCALED_SIZES = {**SIZES, "embedded": Size(same="residual")}
ROOT_SCALED_RESIDUAL = ("residual", "normed", "final", "embedded")
ROOT_SCALED = {"embedded": 0.5}
ROOT_SCALED_TIED = {"embedded": 0.5, "final": 0.5}
ROOT_SCALED_EMBEDDING = Parameter("model.embed_tokens.weight", "vocab -> embedded")
FINAL_WITHOUT_ONE = (
    Parameter("model.norm.weight", "1+gain final"),
    Parameter("lm_head.weight", "vocab <- final"),
)
POST_NORM_ATTENTION = (*ATTENTION[:3], Parameter(LAYER + "self_attn.o_proj.weight", "branch <- (heads head)"))
POST_NORM_FFN = (*GATED_FFN[:2], Parameter(LAYER + "mlp.down_proj.weight", "branch <- ffn"))
POST_NORM_BIASES = (
    *ATTENTION_BIASES[:3],
    Parameter(LAYER + "self_attn.o_proj.bias", "branch", when="attention_bias"),
)

SANDWICH_NORMS_WITHOUT_ONE = (
    Parameter(LAYER + "input_layernorm.weight", "1+gain normed"),
    Parameter(LAYER + "post_attention_layernorm.weight", "1+gain residual"),
    Parameter(LAYER + "pre_feedforward_layernorm.weight", "1+gain normed"),
    Parameter(LAYER + "post_feedforward_layernorm.weight", "1+gain residual"),
)

ALIBI = tuple(
    Refusal(operator, "ALiBi's slopes depend on the number of heads, so copies of a head would attend otherwise")
    for operator in ("width", "heads")
)
