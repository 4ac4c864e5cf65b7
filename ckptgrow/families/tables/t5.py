"""T5: an encoder and a decoder with relative positions; a tied head behind outputs divided by √hidden.

Source: Raffel et al., "Exploring the Limits of Transfer Learning", arXiv 1910.10683; transformers
`T5ForConditionalGeneration`.
"""

from ckptgrow.families.family import Family, Padding, Parameter, Refusal, Size, TaskHead, Tie

ENCODER, DECODER = "encoder.block.{layer}.", "decoder.block.{layer}."
UNSCALED = Padding("rms", "layer_norm_epsilon")  # no other head reads outputs divided by √hidden

FAMILY = Family(
    model_type="t5",
    base_prefix="transformer.",
    num_layers="num_layers",
    stacks={"decoder.": "num_decoder_layers"},
    head="seq2seq",
    sizes={
        "vocab": Size(config="vocab_size"),
        "residual": Size(config="d_model"),
        "normed": Size(same="residual"),
        "encoded": Size(same="residual"),
        "final": Size(same="residual"),
        "scaled": Size(same="residual"),
        "heads": Size(config="num_heads"),
        "head": Size(config="d_kv"),
        "ffn": Size(config="d_ff"),
        "buckets": Size(config="relative_attention_num_buckets"),
    },
    parameters=(
        Parameter("shared.weight", "vocab -> residual"),
        Parameter(ENCODER + "layer.0.SelfAttention.q.weight", "(heads head) <- normed"),
        Parameter(ENCODER + "layer.0.SelfAttention.k.weight", "(heads head) <- normed"),
        Parameter(ENCODER + "layer.0.SelfAttention.v.weight", "(heads! head) <- normed"),
        Parameter(ENCODER + "layer.0.SelfAttention.o.weight", "residual <- (heads head)"),
        Parameter("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "buckets -> heads"),
        Parameter(ENCODER + "layer.0.layer_norm.weight", "gain normed"),
        Parameter(ENCODER + "layer.1.DenseReluDense.wi.weight", "ffn! <- normed", when="not is_gated_act"),
        Parameter(ENCODER + "layer.1.DenseReluDense.wi_0.weight", "ffn <- normed", when="is_gated_act"),
        Parameter(ENCODER + "layer.1.DenseReluDense.wi_1.weight", "ffn! <- normed", when="is_gated_act"),
        Parameter(ENCODER + "layer.1.DenseReluDense.wo.weight", "residual <- ffn"),
        Parameter(ENCODER + "layer.1.layer_norm.weight", "gain normed"),
        Parameter("encoder.final_layer_norm.weight", "gain encoded"),
        Parameter(DECODER + "layer.0.SelfAttention.q.weight", "(heads head) <- normed"),
        Parameter(DECODER + "layer.0.SelfAttention.k.weight", "(heads head) <- normed"),
        Parameter(DECODER + "layer.0.SelfAttention.v.weight", "(heads! head) <- normed"),
        Parameter(DECODER + "layer.0.SelfAttention.o.weight", "residual <- (heads head)"),
        Parameter("decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "buckets -> heads"),
        Parameter(DECODER + "layer.0.layer_norm.weight", "gain normed"),
        Parameter(DECODER + "layer.1.EncDecAttention.q.weight", "(heads head) <- normed"),
        Parameter(DECODER + "layer.1.EncDecAttention.k.weight", "(heads head) <- encoded"),
        Parameter(DECODER + "layer.1.EncDecAttention.v.weight", "(heads! head) <- encoded"),
        Parameter(DECODER + "layer.1.EncDecAttention.o.weight", "residual <- (heads head)"),
        Parameter(DECODER + "layer.1.layer_norm.weight", "gain normed"),
        Parameter(DECODER + "layer.2.DenseReluDense.wi.weight", "ffn! <- normed", when="not is_gated_act"),
        Parameter(DECODER + "layer.2.DenseReluDense.wi_0.weight", "ffn <- normed", when="is_gated_act"),
        Parameter(DECODER + "layer.2.DenseReluDense.wi_1.weight", "ffn! <- normed", when="is_gated_act"),
        Parameter(DECODER + "layer.2.DenseReluDense.wo.weight", "residual <- ffn"),
        Parameter(DECODER + "layer.2.layer_norm.weight", "gain normed"),
        Parameter("decoder.final_layer_norm.weight", "gain final"),
        Parameter("lm_head.weight", "vocab <- scaled"),
    ),
    tie=Tie(head="lm_head.weight", embedding="shared.weight", is_embedding_if_lacking=True),
    twins=(("encoder.embed_tokens.weight", "shared.weight"), ("decoder.embed_tokens.weight", "shared.weight")),
    padding=Padding("rms", "layer_norm_epsilon", scale={"final": 0.5}, scale_tied={"final": 0.5}),
    activation="dense_act_fn",
    dropout=("dropout_rate",),
    aliases={
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    },
    residual=("residual", "normed", "encoded", "final", "scaled"),
    # the model divides its outputs by √hidden, which grows by √k: the rest of the tied head's 1/k is the norm's
    shrunken={"scaled": 0.5},
    shrunken_tied={"final": 0.5, "scaled": 1.0},
    made={"scaled": "final"},
    refusals=(
        Refusal("zero-norm", "a decoder layer reads the encoder past its own norm; use ⟦new zero-output⟧"),
        *(
            Refusal(
                operator,
                "without scaled outputs transformers ties or unties its head by what the file holds",
                when="not scale_decoder_outputs",
            )
            for operator in ("width", "hidden")
        ),
        Refusal(
            "depth", "encoder and decoder have different numbers of layers", when="num_decoder_layers != num_layers"
        ),
    ),
    tasks=(
        TaskHead(
            classes=("ForSequenceClassification",),
            head="sequence",
            parameters=(
                Parameter("classification_head.dense.weight", "pooled <- final"),
                Parameter("classification_head.dense.bias", "pooled"),
                Parameter("classification_head.out_proj.weight", "labels <- pooled"),
                Parameter("classification_head.out_proj.bias", "labels"),
            ),
            base_prefix="transformer.",
            padding=UNSCALED,
        ),
        TaskHead(
            classes=("ForTokenClassification",),
            head="tokens",
            parameters=(Parameter("classifier.weight", "labels <- encoded"), Parameter("classifier.bias", "labels")),
            base_prefix="transformer.",
            part=("shared.", "encoder."),
            padding=UNSCALED,
        ),
        TaskHead(
            classes=("ForQuestionAnswering",),
            head="questions",
            parameters=(Parameter("qa_outputs.weight", "2 <- final"), Parameter("qa_outputs.bias", "2")),
            padding=UNSCALED,
        ),
    ),
)
