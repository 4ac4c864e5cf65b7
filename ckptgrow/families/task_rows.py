"""Rows of task heads that tables share: what transformers' classes for one task have in most families alike.

Value heads are TRL's `AutoModelForCausalLMWithValueHead`, whose files have them beside the model's own names.
"""

from ckptgrow.families.family import Parameter, TaskHead

SEQUENCE = TaskHead(
    classes=("ForSequenceClassification",),
    head="sequence",
    parameters=(Parameter("score.weight", "labels <- final"),),
)
TOKENS = TaskHead(
    classes=("ForTokenClassification",),
    head="tokens",
    parameters=(Parameter("score.weight", "labels <- final"), Parameter("score.bias", "labels")),
)
CLASSIFIED_TOKENS = TaskHead(  # the same under an older name
    classes=("ForTokenClassification",),
    head="tokens",
    parameters=(Parameter("classifier.weight", "labels <- final"), Parameter("classifier.bias", "labels")),
)
ANSWERS = (Parameter("qa_outputs.weight", "2 <- final"), Parameter("qa_outputs.bias", "2"))  # where one begins and ends
QUESTIONS = TaskHead(classes=("ForQuestionAnswering",), head="questions", parameters=ANSWERS)
QUESTIONS_OF_TRANSFORMER = TaskHead(  # whose backbone is `transformer` in this class alone
    classes=("ForQuestionAnswering",), head="questions", parameters=ANSWERS, base_prefix="transformer."
)
VALUES = TaskHead(
    classes=("WithValueHead",),
    head="valued",
    parameters=(Parameter("v_head.summary.weight", "1 <- final"), Parameter("v_head.summary.bias", "1")),
    keeps_head=True,
)


def encoder_tasks(
    base: str, *, sequence: tuple[Parameter, ...], pretraining: tuple[TaskHead, ...]
) -> tuple[TaskHead, ...]:
    """Tasks of BERT and its relatives, whose backbone is the module `base`; `sequence` classifies sequences."""
    classifier = (Parameter("classifier.weight", "labels <- residual"), Parameter("classifier.bias", "labels"))
    choice = (Parameter("classifier.weight", "1 <- pooled"), Parameter("classifier.bias", "1"))
    answers = (Parameter("qa_outputs.weight", "2 <- residual"), Parameter("qa_outputs.bias", "2"))
    return (
        TaskHead(classes=("ForSequenceClassification",), head="sequence", parameters=sequence),
        TaskHead(classes=("ForTokenClassification",), head="tokens", parameters=classifier),
        TaskHead(classes=("ForQuestionAnswering",), head="questions", parameters=answers),
        TaskHead(classes=("ForMultipleChoice",), head="choices", parameters=(*pooler(base), *choice)),
        *pretraining,
    )


def pooler(base: str) -> tuple[Parameter, ...]:
    """What makes one vector of a sequence's first token."""
    return (
        Parameter(base + "pooler.dense.weight", "pooled <- residual"),
        Parameter(base + "pooler.dense.bias", "pooled"),
    )
