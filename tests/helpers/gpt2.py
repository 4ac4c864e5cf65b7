"""Tiny real GPT-2s, far from their initialisation, and their training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

VOCABULARY, POSITIONS = 31, 16


def gpt2_config(**changes: Any) -> GPT2Config:
    fields: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "n_positions": POSITIONS,
        "n_embd": 12,
        "n_layer": 2,
        "n_head": 3,
        "n_inner": 20,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    return GPT2Config(**{**fields, **changes})


def perturbed_gpt2(seed: int = 0, **changes: Any) -> GPT2LMHeadModel:
    """A float64 GPT-2 in which every parameter, norms and biases too, is far from its initialisation."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(gpt2_config(**changes)).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.5 if name.endswith("bias") or ".ln_" in name else 0.25
            parameter.add_(torch.randn_like(parameter) * scale)
    return model


def token_batches(num: int, seed: int = 1) -> list[torch.Tensor]:
    """Batches of 2 sequences."""
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randint(0, VOCABULARY, (num, 2, POSITIONS), generator=generator))


def language_loss(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=tokens).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def train(model: PreTrainedModel, optimizer: torch.optim.Optimizer, batches: Sequence[torch.Tensor]) -> list[float]:
    """Trains; schedule-free optimizers, which train another point than they store, are told so and set back."""
    losses: list[float] = []
    getattr(optimizer, "train", lambda: None)()
    for tokens in batches:
        optimizer.zero_grad(set_to_none=True)
        loss = language_loss(model, tokens)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    getattr(optimizer, "eval", lambda: None)()
    return losses


def logits(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=tokens).logits


def largest_logit_difference(one: PreTrainedModel, other: PreTrainedModel) -> float:
    """Of the largest logit, over three batches."""
    worst = largest = 0.0
    for tokens in token_batches(3, seed=7):
        first, second = logits(one, tokens), logits(other, tokens)
        worst, largest = max(worst, float((first - second).abs().max())), max(largest, float(first.abs().max()))
    return worst / largest
