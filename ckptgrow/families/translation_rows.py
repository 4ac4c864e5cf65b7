"""Rows that BART's table and those of its relatives share: an encoder, and a decoder that reads it, with LayerNorms.

Norms stand after each block (BART, Marian) or before it (mBART, Pegasus, Whisper). The last norm before a tied head
has to make up for the copies: it is the decoder's own, or that of its last layer.
"""

from ckptgrow.families.family import Parameter, Refusal, Size, TaskHead

ENCODER, DECODER = "model.encoder.layers.{layer}.", "model.decoder.layers.{layer}."
SCALED, UNSCALED = "scale_embedding", "not scale_embedding"
# the space that the head reads: a tied head's share of 1/k differs
ENDS = (("final", SCALED), ("plain_final", UNSCALED))
SHRUNKEN, SHRUNKEN_TIED = {"embedded": 0.5}, {"embedded": 0.5, "final": 0.5, "plain_final": 1.0}
SIZES = {
    "vocab": Size(config="vocab_size"),
    "position": Size(config="max_position_embeddings"),
    "residual": Size(config="d_model"),
    "embedded": Size(same="residual"),
    "branch": Size(same="residual"),
    "normed": Size(same="residual"),
    "encoded": Size(same="residual"),
    "final": Size(same="residual"),
    "plain_final": Size(same="residual"),
    "heads": Size(config="encoder_attention_heads"),
    "head": Size(ratio=("residual", "heads")),
    "ffn": Size(config="encoder_ffn_dim"),
    "decoder_heads": Size(config="decoder_attention_heads"),
    "decoder_head": Size(ratio=("residual", "decoder_heads")),
    "decoder_ffn": Size(config="decoder_ffn_dim"),
}
RESIDUAL = ("residual", "embedded", "branch", "normed", "encoded", "final", "plain_final")
UNITS = ("heads", "ffn", "decoder_heads", "decoder_ffn")
DROPOUT = ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop")
ALIASES = {
    "num_attention_heads": "encoder_attention_heads",
    "hidden_size": "d_model",
    "num_hidden_layers": "encoder_layers",
}
TWINS = tuple((f"model.{part}.embed_tokens.weight", "model.shared.weight") for part in ("encoder", "decoder"))
PAST_THE_NORM = Refusal("zero-norm", "a decoder layer reads the encoder past its own norm; use ⟦new zero-output⟧")
BIASED_LOGITS = Refusal(
    "vocab", "its files have a bias of the logits for every token (final_logits_bias), which is no parameter and stays"
)
UNEQUAL = Refusal(
    "depth", "encoder and decoder have different numbers of layers", when="decoder_layers != encoder_layers"
)


def ends(name: str, layout: str, layers: str = "all") -> tuple[Parameter, ...]:
    """The rows of what writes or reads the space before the head."""
    return tuple(Parameter(name, layout.format(space), when=condition, layers=layers) for space, condition in ENDS)


def embeddings(name: str, written: str, when: str | None = None) -> tuple[Parameter, ...]:
    """The rows of an embedding, which the model multiplies by √hidden where the config says so."""
    conditions = ((SCALED, "embedded"), (UNSCALED, written))
    return tuple(
        Parameter(name, f"vocab -> {space}", when=one if when is None else f"{one} and {when}")
        for one, space in conditions
    )


def attention(module: str, heads: str, read: str, written: str, source: str | None = None) -> tuple[Parameter, ...]:
    """An attention's rows; `source`: the space of keys and values where it is not that of the queries."""
    one = "head" if heads == "heads" else "decoder_head"
    keys = source or read
    return (
        Parameter(module + "k_proj.weight", f"({heads} {one}) <- {keys}"),
        Parameter(module + "k_proj.bias", f"({heads} {one})"),
        Parameter(module + "v_proj.weight", f"({heads}! {one}) <- {keys}"),
        Parameter(module + "v_proj.bias", f"({heads}! {one})"),
        Parameter(module + "q_proj.weight", f"({heads} {one}) <- {read}"),
        Parameter(module + "q_proj.bias", f"({heads} {one})"),
        Parameter(module + "out_proj.weight", f"{written} <- ({heads} {one})"),
        Parameter(module + "out_proj.bias", written),
    )


def norm(name: str, written: str, layers: str = "all") -> tuple[Parameter, ...]:
    """A LayerNorm's rows."""
    return (
        Parameter(name + ".weight", f"gain {written}", layers=layers),
        Parameter(name + ".bias", written, layers=layers),
    )


def feed_forward(layer: str, units: str, read: str, written: str) -> tuple[Parameter, ...]:
    """A feed-forward block's rows."""
    return (
        Parameter(layer + "fc1.weight", f"{units}! <- {read}"),
        Parameter(layer + "fc1.bias", f"{units}!"),
        Parameter(layer + "fc2.weight", f"{written} <- {units}"),
        Parameter(layer + "fc2.bias", written),
    )


def encoder_layers(read: str, written: str, normed: str) -> tuple[Parameter, ...]:
    """The rows of the encoder's layers: the spaces that blocks read and write, and that norms write."""
    return (
        *attention(ENCODER + "self_attn.", "heads", read, written),
        *norm(ENCODER + "self_attn_layer_norm", normed),
        *feed_forward(ENCODER, "ffn", read, written),
        *norm(ENCODER + "final_layer_norm", normed),
    )


def decoder_layers(
    read: str, written: str, normed: str, encoded: str, last: tuple[Parameter, ...]
) -> tuple[Parameter, ...]:
    """The same of the decoder's; `encoded`: the space of what the encoder wrote; `last`: a layer's last norm."""
    return (
        *attention(DECODER + "self_attn.", "decoder_heads", read, written),
        *norm(DECODER + "self_attn_layer_norm", normed),
        *attention(DECODER + "encoder_attn.", "decoder_heads", read, written, encoded),
        *norm(DECODER + "encoder_attn_layer_norm", normed),
        *feed_forward(DECODER, "decoder_ffn", read, written),
        *last,
    )


CLASSIFICATION = (
    *ends("classification_head.dense.weight", "pooled <- {}"),
    Parameter("classification_head.dense.bias", "pooled"),
    Parameter("classification_head.out_proj.weight", "labels <- pooled"),
    Parameter("classification_head.out_proj.bias", "labels"),
)
TASKS = (
    TaskHead(classes=("ForSequenceClassification",), head="sequence", parameters=CLASSIFICATION),
    TaskHead(
        classes=("ForQuestionAnswering",),
        head="questions",
        parameters=(*ends("qa_outputs.weight", "2 <- {}"), Parameter("qa_outputs.bias", "2")),
    ),
)
