"""A real transformers model with a checkpoint's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from ckptgrow.checkpoints.checkpoint import Checkpoint
from ckptgrow.checkpoints.tensors import whole
from ckptgrow.errors import ClaimError, ConfigError, listing
from ckptgrow.families.claim import Claim
from ckptgrow.families.sizes import is_tied


def build_model(config: Mapping[str, Any], dtype: torch.dtype, where: str) -> PreTrainedModel:
    """The family's model with its head, in evaluation mode, freshly initialised.

    Raises ConfigError where transformers refuses the config.
    """
    fields = {key: value for key, value in config.items() if key not in ("model_type", "dtype", "torch_dtype")}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of token ids outside small vocabularies
    try:
        full = AutoConfig.for_model(str(config["model_type"]), **fields)
        model = AutoModelForCausalLM.from_config(full, dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: transformers refuses this config ({str(error).splitlines()[0]})") from error
    finally:
        logging.set_verbosity(verbosity)
    return _moved(model, dtype).eval()


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
    model = build_model(config, dtype, str(checkpoint.path))
    state = {one.canonical: whole(checkpoint.tensors[one.name]).to(dtype) for one in claim.model if not one.is_buffer}
    missing = model.load_state_dict(state, strict=False).missing_keys
    tied = {claim.family.tie.head} if claim.family.tie and is_tied(claim.family, config) else set[str]()
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    lacking = [name for name in missing if name in parameters and name not in tied]
    if lacking:
        raise ClaimError(f"{checkpoint.path}: the model's {listing(lacking)} get no weight, expected one for each")
    return _moved(model, device)


def _moved(model: PreTrainedModel, target: torch.dtype | str) -> PreTrainedModel:
    """`Module.to`; transformers annotates it in a way that type checkers cannot follow."""
    torch.nn.Module.to(model, target)
    return model
