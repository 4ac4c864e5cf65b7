"""The arguments with which a real model is called on a sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OF_CHOICES = "ForMultipleChoice"  # takes several sequences for each answer; here one
ENDED = "ForSequenceClassification"  # of an encoder and decoder it reads the state at the end's token


def inputs_of(model: PreTrainedModel, sample: torch.Tensor) -> dict[str, Any]:
    """The model's arguments for a batch: images, tokens, or the same tokens for encoder and decoder."""
    device = "cpu" if model.device.type == "meta" else model.device  # of a streamed model
    if sample.is_floating_point():
        return {model.main_input_name: sample.to(device, model.dtype)}
    tokens = sample.to(device)
    if type(model).__name__.endswith(OF_CHOICES):
        tokens = tokens[:, None]
    if not model.config.is_encoder_decoder or not _has_decoder(model):
        return {model.main_input_name: tokens, "use_cache": False}
    if type(model).__name__.endswith(ENDED):
        tokens = _ended(tokens, int(model.config.eos_token_id))
    return {model.main_input_name: tokens, "use_cache": False, "decoder_input_ids": tokens}


def _has_decoder(model: PreTrainedModel) -> bool:
    return any(name.split(".")[-1] == "decoder" for name, _ in model.named_modules())


def _ended(tokens: torch.Tensor, end: int) -> torch.Tensor:
    """The tokens with the end's in the last place and nowhere else."""
    others = torch.where(tokens == end, end + 1 if end == 0 else end - 1, tokens)
    return torch.cat([others[:, :-1], torch.full_like(tokens[:, :1], end)], 1)
