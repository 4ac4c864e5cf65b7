"""RoBERTa: BERT's encoder, with positions that begin behind the number of the padding token.

Source: Liu et al., "RoBERTa", arXiv 1907.11692; transformers `RobertaForMaskedLM`.
"""

from ckptgrow.families.family import Family, Parameter, Refusal, Size, Tie

LAYER = "roberta.encoder.layer.{layer}."

FAMILY = Family(
    model_type="roberta",
    base_prefix="roberta.",
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
        Parameter("roberta.embeddings.word_embeddings.weight", "vocab -> branch"),
        Parameter("roberta.embeddings.token_type_embeddings.weight", "types -> branch"),
        Parameter("roberta.embeddings.LayerNorm.weight", "gain residual"),
        Parameter("roberta.embeddings.LayerNorm.bias", "residual"),
        Parameter("roberta.embeddings.position_embeddings.weight", "position -> branch"),
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
        Parameter("lm_head.bias", "vocab"),
        Parameter("lm_head.dense.weight", "transformed <- residual"),
        Parameter("lm_head.dense.bias", "transformed"),
        Parameter("lm_head.layer_norm.weight", "gain final"),
        Parameter("lm_head.layer_norm.bias", "final"),
        Parameter("lm_head.decoder.weight", "vocab <- final"),
        Parameter("lm_head.decoder.bias", "vocab", when="not tie_word_embeddings"),
    ),
    tie=Tie(head="lm_head.decoder.weight", embedding="roberta.embeddings.word_embeddings.weight"),
    twins_if_tied=(("lm_head.decoder.bias", "lm_head.bias"),),
    spellings=(
        ("LayerNorm.weight", "LayerNorm.gamma"),
        ("LayerNorm.bias", "LayerNorm.beta"),
    ),
    buffers=("roberta.embeddings.position_ids", "roberta.embeddings.token_type_ids"),
    activation="hidden_act",
    dropout=("hidden_dropout_prob", "attention_probs_dropout_prob"),
    residual=("residual", "branch", "transformed", "final"),
    unused_positions=2,
    depth_is_exact=False,
    refusals=(
        Refusal("hidden", "a norm stands after each block, so no new coordinate can stay the mean; use ⟦factor K⟧"),
    ),
)
