"""A real transformers model with a checkpoint's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights
from transformers.utils import logging

from ckptgrow.errors import ClaimError, ConfigError, at, listing
from ckptgrow.families.family import Head
from ckptgrow.families.registry import family_of
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.state.architecture import config_errors
from ckptgrow.state.claim import Claim
from ckptgrow.state.sizes import is_tied
from ckptgrow.storage.tensors import whole

HEADS: Mapping[Head, type[Any]] = {
    "causal": AutoModelForCausalLM,
    "masked": AutoModelForMaskedLM,
    "seq2seq": AutoModelForSeq2SeqLM,
    "image": AutoModelForImageClassification,
}


def build_model(config: Mapping[str, Any], dtype: torch.dtype) -> PreTrainedModel:
    """The family's model with its head, in evaluation mode, freshly initialised.

    Raises ConfigError where transformers refuses the config.
    """
    fields = {key: value for key, value in config.items() if key not in ("model_type", "dtype", "torch_dtype")}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of token ids outside small vocabularies
    try:
        full = AutoConfig.for_model(str(config["model_type"]), **fields)
        model = HEADS[family_of(config).head].from_config(
            full,
            dtype=torch.float32,
            experts_implementation="eager",  # torch's grouped product has no float64
        )
    except config_errors() as error:
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(f"transformers refuses this config ({reason})") from error
    finally:
        logging.set_verbosity(verbosity)
    return _with_exact_scales(_moved(model, dtype)).eval()


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
    with at(checkpoint.path), no_init_weights():  # every parameter gets the checkpoint's
        model = build_model(config, dtype)
    model.tie_weights()
    _parted(model, claim, config)
    state = {one.canonical: whole(checkpoint.tensors[one.name]).to(dtype) for one in claim.model if not one.is_buffer}
    missing = model.load_state_dict(state, strict=False).missing_keys
    parameters = dict(model.named_parameters(remove_duplicate=False))
    filled = {id(parameters[name]) for name in state if name in parameters}  # a tied one under any of its names
    lacking = [name for name in missing if name in parameters and id(parameters[name]) not in filled]
    if lacking:
        raise ClaimError(f"{checkpoint.path}: the model's {listing(lacking)} get no weight, expected one for each")
    return _moved(model, device)


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
