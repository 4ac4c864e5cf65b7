"""BERT: an encoder with norms after each block, and the head of its masked language model.

Source: Devlin et al., "BERT", arXiv 1810.04805; transformers `BertForMaskedLM`.
"""

from ckptgrow.families.encoder_rows import DROPOUT, REFUSALS, RESIDUAL, SIZES, SPELLINGS, encoder_layers
from ckptgrow.families.family import Family, Parameter, TaskHead, Tie
from ckptgrow.families.task_rows import encoder_tasks, pooler

NEXT_SENTENCE = (
    *pooler("bert."),
    Parameter("cls.seq_relationship.weight", "2 <- pooled"),
    Parameter("cls.seq_relationship.bias", "2"),
)

FAMILY = Family(
    model_type="bert",
    base_prefix="bert.",
    num_layers="num_hidden_layers",
    head="masked",
    sizes=SIZES,
    parameters=(
        Parameter("bert.embeddings.word_embeddings.weight", "vocab -> branch"),
        Parameter("bert.embeddings.position_embeddings.weight", "position -> branch"),
        Parameter("bert.embeddings.token_type_embeddings.weight", "types -> branch"),
        Parameter("bert.embeddings.LayerNorm.weight", "gain residual"),
        Parameter("bert.embeddings.LayerNorm.bias", "residual"),
        *encoder_layers("bert."),
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
    spellings=SPELLINGS,
    buffers=("bert.embeddings.position_ids", "bert.embeddings.token_type_ids"),
    activation="hidden_act",
    dropout=DROPOUT,
    residual=RESIDUAL,
    depth_is_exact=False,
    refusals=REFUSALS,
    tasks=encoder_tasks(
        "bert.",
        sequence=(
            *pooler("bert."),
            Parameter("classifier.weight", "labels <- pooled"),
            Parameter("classifier.bias", "labels"),
        ),
        pretraining=(
            TaskHead(classes=("ForNextSentencePrediction",), head="next sentence", parameters=NEXT_SENTENCE),
            TaskHead(classes=("ForPreTraining",), head="pretraining", parameters=NEXT_SENTENCE, keeps_head=True),
        ),
    ),
)
