"""EuroBERT: Llama's blocks with attention both ways, and a head for masked tokens.

Source: Boizard et al., "EuroBERT", arXiv 2503.05500; transformers `EuroBertForMaskedLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Parameter, TaskHead
from ckptgrow.families.tables.llama import FAMILY as LLAMA
from ckptgrow.families.task_rows import CLASSIFIED_TOKENS

FAMILY = replace(
    LLAMA,
    model_type="eurobert",
    head="masked",
    parameters=(*LLAMA.parameters, Parameter("lm_head.bias", "vocab", when="mlp_bias")),
    dropout=("attention_dropout",),
    tasks=(
        TaskHead(
            classes=("ForSequenceClassification",),
            head="sequence",
            parameters=(
                Parameter("dense.weight", "pooled <- final"),
                Parameter("dense.bias", "pooled"),
                Parameter("classifier.weight", "labels <- pooled"),
                Parameter("classifier.bias", "labels"),
            ),
        ),
        CLASSIFIED_TOKENS,
    ),
)
