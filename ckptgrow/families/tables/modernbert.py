"""ModernBERT: fused gates, windows, a norm behind the embedding and therefore none before the first attention.

Source: Warner et al., "Smarter, Better, Faster, Longer" (ModernBERT), arXiv 2412.13663; transformers
`ModernBertForMaskedLM`.
"""

from ckptgrow.families.family import Family, Head, Parameter, Refusal, Size, TaskHead, Tie

LAYER = "model.layers.{layer}."
EMBEDDING = (
    Parameter("model.embeddings.tok_embeddings.weight", "vocab -> embedded"),
    Parameter("model.embeddings.norm.weight", "gain residual"),
    Parameter("model.embeddings.norm.bias", "residual", when="norm_bias"),
)
ATTENTION_NORM = (
    Parameter(LAYER + "attn_norm.weight", "gain normed", layers="later"),
    Parameter(LAYER + "attn_norm.bias", "normed", when="norm_bias", layers="later"),
)
REST = (
    Parameter(LAYER + "attn.Wo.weight", "residual <- (heads head)"),
    Parameter(LAYER + "attn.Wo.bias", "residual", when="attention_bias"),
    Parameter(LAYER + "mlp_norm.weight", "gain normed"),
    Parameter(LAYER + "mlp_norm.bias", "normed", when="norm_bias"),
    Parameter(LAYER + "mlp.Wi.weight", "(2! ffn) <- normed"),
    Parameter(LAYER + "mlp.Wi.bias", "(2! ffn)", when="mlp_bias"),
    Parameter(LAYER + "mlp.Wo.weight", "residual <- ffn"),
    Parameter(LAYER + "mlp.Wo.bias", "residual", when="mlp_bias"),
    Parameter("model.final_norm.weight", "gain encoded"),
    Parameter("model.final_norm.bias", "encoded", when="norm_bias"),
)


def head(module: str) -> tuple[Parameter, ...]:
    """The rows of the head below a module."""
    return (
        Parameter(module + ".dense.weight", "transformed <- encoded"),
        Parameter(module + ".dense.bias", "transformed", when="classifier_bias"),
        Parameter(module + ".norm.weight", "gain final"),
        Parameter(module + ".norm.bias", "final", when="norm_bias"),
        Parameter("decoder.weight", "vocab <- final"),
        Parameter("decoder.bias", "vocab", when="decoder_bias"),
    )


def task(ending: str, kind: Head, written: str = "labels", bias: str | None = None) -> TaskHead:
    """A class whose head is that for tokens with a classifier in the decoder's place, with a bias where it says so."""
    classifier = Parameter("classifier.weight", f"{written} <- final")
    rows = (*head("head")[:4], classifier, Parameter("classifier.bias", written, when=bias))
    return TaskHead(classes=(ending,), head=kind, parameters=rows)


FAMILY = Family(
    model_type="modernbert",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    head="masked",
    sizes={
        "vocab": Size(config="vocab_size"),
        "residual": Size(config="hidden_size"),
        "embedded": Size(same="residual"),
        "normed": Size(same="residual"),
        "encoded": Size(same="residual"),
        "transformed": Size(same="residual"),
        "final": Size(same="residual"),
        "heads": Size(config="num_attention_heads"),
        "head": Size(ratio=("residual", "heads")),
        "ffn": Size(config="intermediate_size"),
    },
    parameters=(
        *EMBEDDING,
        *ATTENTION_NORM,
        Parameter(LAYER + "attn.Wqkv.weight", "(3! heads head) <- normed"),
        Parameter(LAYER + "attn.Wqkv.bias", "(3! heads head)", when="attention_bias"),
        *REST,
        *head("head"),
    ),
    tie=Tie(head="decoder.weight", embedding="model.embeddings.tok_embeddings.weight"),
    dropout=("attention_dropout", "embedding_dropout", "mlp_dropout"),
    residual=("residual", "embedded", "normed", "encoded", "transformed", "final"),
    layer_lists=("layer_types",),
    refusals=(
        Refusal("hidden", "a norm stands behind the embedding, so no new coordinate can stay the mean; use ⟦factor K⟧"),
    ),
    tasks=(
        task("ForSequenceClassification", "sequence"),
        task("ForTokenClassification", "tokens"),
        task("ForQuestionAnswering", "questions", "2"),
        task("ForMultipleChoice", "choices", "1"),
    ),
)
