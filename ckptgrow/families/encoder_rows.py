"""Rows that BERT's table and those of its relatives share: an encoder whose norms stand after each block."""

from ckptgrow.families.family import Parameter, Refusal, Size

SIZES = {
    "vocab": Size(config="vocab_size"),
    "position": Size(config="max_position_embeddings"),
    "types": Size(config="type_vocab_size"),
    "residual": Size(config="hidden_size"),
    "branch": Size(same="residual"),
    "transformed": Size(same="residual"),
    "final": Size(same="residual"),
    "heads": Size(config="num_attention_heads"),
    "head": Size(ratio=("residual", "heads")),
    "ffn": Size(config="intermediate_size"),
}
RESIDUAL = ("residual", "branch", "transformed", "final")
DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob")
SPELLINGS = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
REFUSALS = (
    Refusal("hidden", "a norm stands after each block, so no new coordinate can stay the mean; use ⟦factor K⟧"),
)


def encoder_layers(base: str) -> tuple[Parameter, ...]:
    """The parameters of a layer, in the module's order, below the module that `base` names."""
    layer = base + "encoder.layer.{layer}."
    return (
        Parameter(layer + "attention.self.query.weight", "(heads head) <- residual"),
        Parameter(layer + "attention.self.query.bias", "(heads head)"),
        Parameter(layer + "attention.self.key.weight", "(heads head) <- residual"),
        Parameter(layer + "attention.self.key.bias", "(heads head)"),
        Parameter(layer + "attention.self.value.weight", "(heads! head) <- residual"),
        Parameter(layer + "attention.self.value.bias", "(heads! head)"),
        Parameter(layer + "attention.output.dense.weight", "branch <- (heads head)"),
        Parameter(layer + "attention.output.dense.bias", "branch"),
        Parameter(layer + "attention.output.LayerNorm.weight", "gain residual"),
        Parameter(layer + "attention.output.LayerNorm.bias", "residual"),
        Parameter(layer + "intermediate.dense.weight", "ffn! <- residual"),
        Parameter(layer + "intermediate.dense.bias", "ffn!"),
        Parameter(layer + "output.dense.weight", "branch <- ffn"),
        Parameter(layer + "output.dense.bias", "branch"),
        Parameter(layer + "output.LayerNorm.weight", "gain residual"),
        Parameter(layer + "output.LayerNorm.bias", "residual"),
    )
