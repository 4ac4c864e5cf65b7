"""What models with heads of other tasks than language give: all outputs of the head, as one tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ckptgrow.verification.model_inputs import inputs_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VALUE_HEAD = "v_head"  # TRL's, beside the head of tokens
TASKS = (
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
    "ForNextSentencePrediction",
    "ForPreTraining",
)


def has_task_head(model: PreTrainedModel) -> bool:
    """Whether the model's head is of another task than predicting tokens or classifying images."""
    return hasattr(model, VALUE_HEAD) or type(model).__name__.endswith(TASKS)


def task_logits(model: PreTrainedModel, sample: torch.Tensor) -> torch.Tensor:
    """All outputs of a task's head: shape (batch, labels), (batch, tokens, labels), or one row of all of them a
    sequence, where there are several.

    Sequences go one by one, for some classes take several only with a padding token.
    """
    return torch.cat([_outputs(model, sequence) for sequence in sample.split(1)])


def _outputs(model: PreTrainedModel, sequence: torch.Tensor) -> torch.Tensor:
    name = type(model).__name__
    inputs = inputs_of(model, sequence)
    if hasattr(model, VALUE_HEAD):
        found: Any = model(**inputs, output_hidden_states=True)
        return torch.cat([found.logits, model.get_submodule(VALUE_HEAD)(found.hidden_states[-1])], -1)
    found = model(**inputs)
    if name.endswith("ForQuestionAnswering"):
        return torch.stack([found.start_logits, found.end_logits], -1)
    if name.endswith("ForPreTraining"):
        return torch.cat([found.prediction_logits.flatten(1), found.seq_relationship_logits], 1)
    return found.logits
