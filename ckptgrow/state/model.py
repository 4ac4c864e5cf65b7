"""A real transformers model with a checkpoint's weights."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

from ckptgrow.errors import ClaimError, ConfigError, at, listing
from ckptgrow.families.family import Head
from ckptgrow.families.registry import family_of
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.state.architecture import config_errors
from ckptgrow.state.claim import Claim
from ckptgrow.state.sizes import is_tied
from ckptgrow.storage.tensors import LazyTensor, Stored, whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CLASSES: Mapping[Head, str] = {  # by their names: transformers takes seconds to import
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "image": "AutoModelForImageClassification",
    "sequence": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
    "questions": "AutoModelForQuestionAnswering",
    "choices": "AutoModelForMultipleChoice",
    "next sentence": "AutoModelForNextSentencePrediction",
    "pretraining": "AutoModelForPreTraining",
    "valued": "AutoModelForCausalLM",  # with TRL's head beside its own
}


def class_of(head: Head) -> type[Any]:
    """The class of transformers that makes models with a head."""
    import transformers

    return getattr(transformers, _CLASSES[head])


def build_model(config: Mapping[str, Any], dtype: torch.dtype, head: Head | None = None) -> PreTrainedModel:
    """The family's model with its own head, or another, in evaluation mode, freshly initialised.

    Raises ConfigError where transformers refuses the config.
    """
    import transformers
    from transformers.utils import logging

    # deep: transformers writes into what is inside
    fields = deepcopy(
        {key: value for key, value in config.items() if key not in ("model_type", "dtype", "torch_dtype")}
    )
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of token ids outside small vocabularies
    try:
        full = transformers.AutoConfig.for_model(str(config["model_type"]), **fields)
        model = class_of(head or family_of(config).head).from_config(
            full,
            dtype=torch.float32,
            experts_implementation="eager",  # torch's grouped product has no float64
        )
        if head == "valued":
            model.v_head = _ValueHead(model.get_output_embeddings().in_features)
    except config_errors() as error:
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(f"transformers refuses this config ({reason})") from error
    finally:
        logging.set_verbosity(verbosity)
    return _with_exact_scales(_moved(model, dtype)).eval()


def class_path(config: Mapping[str, Any], head: Head | None = None) -> str:
    """Transformers' class of the family's model, with its module; nothing is filled."""
    with torch.device("meta"):
        found = type(build_model(config, torch.float32, head))
    return f"{found.__module__}.{found.__qualname__}"


class _ValueHead(torch.nn.Module):
    """TRL's value head, by its parameters' names."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.summary = torch.nn.Linear(size, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Values, shape (…, 1), of hidden states, shape (…, size)."""
        return self.summary(hidden)


def load_model(
    checkpoint: Checkpoint,
    claim: Claim,
    config: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> PreTrainedModel:
    """The model with the checkpoint's weights, in `dtype` on `device`.

    Raises ClaimError where a parameter of the model gets no weight.
    """
    from transformers.initialization import no_init_weights

    with at(checkpoint.path), no_init_weights():  # every parameter gets the checkpoint's
        model = build_model(config, dtype, claim.family.head)
    sources_of(model, checkpoint, claim, config)
    tensors = {one.canonical: checkpoint.tensors[one.name] for one in claim.model if not one.is_buffer}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in tensors:
            _fill(parameter, tensors[name])
    fill_buffers(model, checkpoint, claim)
    return _moved(model, device)


def _fill(parameter: torch.nn.Parameter, tensor: LazyTensor) -> None:
    """Gives a parameter its value: what is read from a file becomes the parameter's own memory."""
    value = whole(tensor).to(parameter.dtype)
    if isinstance(tensor, Stored) and value.shape == parameter.shape:
        parameter.data = value
    else:
        with torch.no_grad():
            parameter.copy_(value)


def sources_of(
    model: PreTrainedModel, checkpoint: Checkpoint, claim: Claim, config: Mapping[str, Any]
) -> dict[str, str]:
    """Ties what the config ties; by the name of each parameter that of the tensor which it gets.

    Raises ClaimError where a parameter gets none.
    """
    model.tie_weights()
    _parted(model, claim, config)
    stored = {one.canonical: one.name for one in claim.model if not one.is_buffer}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    tied_first = sorted(stored.items(), key=lambda one: one[1] not in claim.tied)  # the embedding's name is used
    filled = {id(parameters[name]): source for name, source in tied_first if name in parameters}
    lacking = [name for name, parameter in parameters.items() if id(parameter) not in filled]
    if lacking:
        raise ClaimError(f"{checkpoint.path}: the model's {listing(lacking)} get no weight, expected one for each")
    return {name: filled[id(parameter)] for name, parameter in parameters.items()}


def fill_buffers(model: PreTrainedModel, checkpoint: Checkpoint, claim: Claim) -> None:
    """Puts in the checkpoint's buffers, where the model keeps such ones: an older transformers wrote others too."""
    stored = {one.canonical: one.name for one in claim.model if one.is_buffer}
    kept = [name for name, _ in model.named_buffers() if name in stored]
    model.load_state_dict({name: whole(checkpoint.tensors[stored[name]]) for name in kept}, strict=False)


def _parted(model: PreTrainedModel, claim: Claim, config: Mapping[str, Any]) -> None:
    """Separates a head from its embedding where the checkpoint has both, because T5's classes always tie them."""
    tie = claim.family.tie
    if tie is None or is_tied(claim.family, config) or tie.head not in {one.canonical for one in claim.model}:
        return
    head = model.get_parameter(tie.head)
    if head is model.get_parameter(tie.embedding):
        path, _, name = tie.head.rpartition(".")
        setattr(model.get_submodule(path), name, torch.nn.Parameter(head.detach().clone()))


def _with_exact_scales(model: PreTrainedModel) -> PreTrainedModel:
    """Computes the root of Gemma's hidden size in float64 too, which would otherwise be the only inexact number."""
    for module in model.modules():
        if hasattr(module, "scalar_embed_scale"):
            torch.as_tensor(module.embed_scale).fill_(float(str(module.scalar_embed_scale)))
    return model


def _moved(model: PreTrainedModel, target: torch.dtype | str) -> PreTrainedModel:
    """`Module.to`; transformers annotates it in a way that type checkers cannot follow."""
    torch.nn.Module.to(model, target)
    return model
