"""RoBERTa: BERT's encoder, with positions that begin behind the number of the padding token.

Source: Liu et al., "RoBERTa", arXiv 1907.11692; transformers `RobertaForMaskedLM`.
"""

from ckptgrow.families.encoder_rows import DROPOUT, REFUSALS, RESIDUAL, SIZES, SPELLINGS, encoder_layers
from ckptgrow.families.family import Family, Parameter, Tie
from ckptgrow.families.task_rows import encoder_tasks

FAMILY = Family(
    model_type="roberta",
    base_prefix="roberta.",
    num_layers="num_hidden_layers",
    head="masked",
    sizes=SIZES,
    parameters=(
        Parameter("roberta.embeddings.word_embeddings.weight", "vocab -> branch"),
        Parameter("roberta.embeddings.token_type_embeddings.weight", "types -> branch"),
        Parameter("roberta.embeddings.LayerNorm.weight", "gain residual"),
        Parameter("roberta.embeddings.LayerNorm.bias", "residual"),
        Parameter("roberta.embeddings.position_embeddings.weight", "position -> branch"),
        *encoder_layers("roberta."),
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
    spellings=SPELLINGS,
    buffers=("roberta.embeddings.position_ids", "roberta.embeddings.token_type_ids"),
    activation="hidden_act",
    dropout=DROPOUT,
    residual=RESIDUAL,
    unused_positions=2,
    depth_is_exact=False,
    refusals=REFUSALS,
    tasks=encoder_tasks(
        "roberta.",
        sequence=(
            Parameter("classifier.dense.weight", "pooled <- residual"),
            Parameter("classifier.dense.bias", "pooled"),
            Parameter("classifier.out_proj.weight", "labels <- pooled"),
            Parameter("classifier.out_proj.bias", "labels"),
        ),
        pretraining=(),
    ),
)
