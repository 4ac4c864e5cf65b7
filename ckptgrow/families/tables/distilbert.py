"""DistilBERT: BERT's layers under other names, without token types and poolers.

Source: Sanh et al., "DistilBERT", arXiv 1910.01108; transformers `DistilBertForMaskedLM`.
"""

from ckptgrow.families.encoder_rows import REFUSALS, RESIDUAL
from ckptgrow.families.family import Family, Parameter, Size, TaskHead, Tie
from ckptgrow.families.task_rows import QUESTIONS

LAYER = "distilbert.transformer.layer.{layer}."
PRE_CLASSIFIER = (Parameter("pre_classifier.weight", "pooled <- residual"), Parameter("pre_classifier.bias", "pooled"))

FAMILY = Family(
    model_type="distilbert",
    base_prefix="distilbert.",
    num_layers="n_layers",
    head="masked",
    sizes={
        "vocab": Size(config="vocab_size"),
        "position": Size(config="max_position_embeddings"),
        "residual": Size(config="dim"),
        "branch": Size(same="residual"),
        "transformed": Size(same="residual"),
        "final": Size(same="residual"),
        "heads": Size(config="n_heads"),
        "head": Size(ratio=("residual", "heads")),
        "ffn": Size(config="hidden_dim"),
    },
    parameters=(
        Parameter("distilbert.embeddings.word_embeddings.weight", "vocab -> branch"),
        Parameter("distilbert.embeddings.position_embeddings.weight", "position -> branch"),
        Parameter("distilbert.embeddings.LayerNorm.weight", "gain residual"),
        Parameter("distilbert.embeddings.LayerNorm.bias", "residual"),
        Parameter(LAYER + "attention.q_lin.weight", "(heads head) <- residual"),
        Parameter(LAYER + "attention.q_lin.bias", "(heads head)"),
        Parameter(LAYER + "attention.k_lin.weight", "(heads head) <- residual"),
        Parameter(LAYER + "attention.k_lin.bias", "(heads head)"),
        Parameter(LAYER + "attention.v_lin.weight", "(heads! head) <- residual"),
        Parameter(LAYER + "attention.v_lin.bias", "(heads! head)"),
        Parameter(LAYER + "attention.out_lin.weight", "branch <- (heads head)"),
        Parameter(LAYER + "attention.out_lin.bias", "branch"),
        Parameter(LAYER + "sa_layer_norm.weight", "gain residual"),
        Parameter(LAYER + "sa_layer_norm.bias", "residual"),
        Parameter(LAYER + "ffn.lin1.weight", "ffn! <- residual"),
        Parameter(LAYER + "ffn.lin1.bias", "ffn!"),
        Parameter(LAYER + "ffn.lin2.weight", "branch <- ffn"),
        Parameter(LAYER + "ffn.lin2.bias", "branch"),
        Parameter(LAYER + "output_layer_norm.weight", "gain residual"),
        Parameter(LAYER + "output_layer_norm.bias", "residual"),
        Parameter("vocab_transform.weight", "transformed <- residual"),
        Parameter("vocab_transform.bias", "transformed"),
        Parameter("vocab_layer_norm.weight", "gain final"),
        Parameter("vocab_layer_norm.bias", "final"),
        Parameter("vocab_projector.weight", "vocab <- final"),
        Parameter("vocab_projector.bias", "vocab"),
    ),
    tie=Tie(head="vocab_projector.weight", embedding="distilbert.embeddings.word_embeddings.weight"),
    activation="activation",
    dropout=("dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout"),
    aliases={"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
    residual=RESIDUAL,
    depth_is_exact=False,
    refusals=REFUSALS,
    tasks=(
        TaskHead(
            classes=("ForSequenceClassification",),
            head="sequence",
            parameters=(
                *PRE_CLASSIFIER,
                Parameter("classifier.weight", "labels <- pooled"),
                Parameter("classifier.bias", "labels"),
            ),
        ),
        TaskHead(
            classes=("ForTokenClassification",),
            head="tokens",
            parameters=(Parameter("classifier.weight", "labels <- residual"), Parameter("classifier.bias", "labels")),
        ),
        TaskHead(
            classes=("ForQuestionAnswering",),
            head="questions",
            parameters=(Parameter("qa_outputs.weight", "2 <- residual"), QUESTIONS.parameters[1]),
        ),
        TaskHead(
            classes=("ForMultipleChoice",),
            head="choices",
            parameters=(
                *PRE_CLASSIFIER,
                Parameter("classifier.weight", "1 <- pooled"),
                Parameter("classifier.bias", "1"),
            ),
        ),
    ),
)
