"""BERT: an encoder with norms after each block, and the head of its masked language model.

Source: Devlin et al., "BERT", arXiv 1810.04805; transformers `BertForMaskedLM`.
"""

from ckptgrow.families.family import Family, Parameter, Refusal, Size, Tie

LAYER = "bert.encoder.layer.{layer}."

FAMILY = Family(
    model_type="bert",
    base_prefix="bert.",
    num_layers="num_hidden_layers",
    head="masked",
    sizes={
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
    },
    parameters=(
        Parameter("bert.embeddings.word_embeddings.weight", "vocab -> branch"),
        Parameter("bert.embeddings.position_embeddings.weight", "position -> branch"),
        Parameter("bert.embeddings.token_type_embeddings.weight", "types -> branch"),
        Parameter("bert.embeddings.LayerNorm.weight", "gain residual"),
        Parameter("bert.embeddings.LayerNorm.bias", "residual"),
        Parameter(LAYER + "attention.self.query.weight", "(heads head) <- residual"),
        Parameter(LAYER + "attention.self.query.bias", "(heads head)"),
        Parameter(LAYER + "attention.self.key.weight", "(heads head) <- residual"),
        Parameter(LAYER + "attention.self.key.bias", "(heads head)"),
        Parameter(LAYER + "attention.self.value.weight", "(heads! head) <- residual"),
        Parameter(LAYER + "attention.self.value.bias", "(heads! head)"),
        Parameter(LAYER + "attention.output.dense.weight", "branch <- (heads head)"),
        Parameter(LAYER + "attention.output.dense.bias", "branch"),
        Parameter(LAYER + "attention.output.LayerNorm.weight", "gain residual"),
        Parameter(LAYER + "attention.output.LayerNorm.bias", "residual"),
        Parameter(LAYER + "intermediate.dense.weight", "ffn! <- residual"),
        Parameter(LAYER + "intermediate.dense.bias", "ffn!"),
        Parameter(LAYER + "output.dense.weight", "branch <- ffn"),
        Parameter(LAYER + "output.dense.bias", "branch"),
        Parameter(LAYER + "output.LayerNorm.weight", "gain residual"),
        Parameter(LAYER + "output.LayerNorm.bias", "residual"),
        Parameter("cls.predictions.bias", "vocab"),
        Parameter("cls.predictions.transform.dense.weight", "transformed <- residual"),
        Parameter("cls.predictions.transform.dense.bias", "transformed"),
        Parameter("cls.predictions.transform.LayerNorm.weight", "gain final"),
        Parameter("cls.predictions.transform.LayerNorm.bias", "final"),
        Parameter("cls.predictions.decoder.weight", "vocab <- final"),
        Parameter("cls.predictions.decoder.bias", "vocab", when="not tie_word_embeddings"),
    ),
    tie=Tie(head="cls.predictions.decoder.weight", embedding="bert.embeddings.word_embeddings.weight"),
    twins_if_tied=(("cls.predictions.decoder.bias", "cls.predictions.bias"),),
    spellings=(
        ("LayerNorm.weight", "LayerNorm.gamma"),
        ("LayerNorm.bias", "LayerNorm.beta"),
    ),
    buffers=("bert.embeddings.position_ids", "bert.embeddings.token_type_ids"),
    activation="hidden_act",
    dropout=("hidden_dropout_prob", "attention_probs_dropout_prob"),
    residual=("residual", "branch", "transformed", "final"),
    depth_is_exact=False,
    refusals=(
        Refusal("hidden", "a norm stands after each block, so no new coordinate can stay the mean; use ⟦factor K⟧"),
    ),
)
