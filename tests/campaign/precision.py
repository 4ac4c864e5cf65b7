"""Dtypes of draws, and how far a function may move by the rounding that they allow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from tests.campaign.subjects import batches, outputs

EXACT = 1e-11  # of the largest logit; 2 to 12 layers in float64 lose some 1e-14
DTYPES: Mapping[str, tuple[torch.dtype, torch.dtype]] = {
    "float64": (torch.float64, torch.float64),
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "float16": (torch.float16, torch.float16),
    "mixed": (torch.bfloat16, torch.float32),
}
SAMPLES = 2


def cast(model: PreTrainedModel, optimizers: list[torch.optim.Optimizer], name: str) -> None:
    """Stores weights and moments in a draw's dtypes; clocks stay."""
    weights, moments = DTYPES[name]
    for one in optimizers:
        for record in one.state.values():
            for key, value in record.items():
                if isinstance(value, torch.Tensor) and value.dim() and value.is_floating_point():
                    record[key] = value.to(moments)
    model.to(weights)


def difference(one: PreTrainedModel, other: PreTrainedModel) -> float:
    """The largest difference of logits, relative to the largest logit."""
    worst = largest = 0.0
    for tokens in batches(SAMPLES, seed=7):
        with torch.no_grad():
            first, second = outputs(one, tokens), outputs(other, tokens)
        if not bool(second.isfinite().all()):
            return float("inf")
        worst, largest = max(worst, float((first - second).abs().max())), max(largest, float(first.abs().max()))
    return worst / largest


def shaken(model: PreTrainedModel, relative: float, trials: int = 3) -> float:
    """How far logits move when every weight moves by up to a relative distance: the function's own condition."""
    kept = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        expected = [outputs(model, tokens) for tokens in batches(SAMPLES, seed=7)]
        worst = 0.0
        for trial in range(trials):
            generator = torch.Generator().manual_seed(trial)
            for name, parameter in model.named_parameters():
                noise = torch.rand(parameter.shape, generator=generator, dtype=torch.float64) * 2 - 1
                parameter.copy_(kept[name] * (1 + relative * noise))
            for tokens, before in zip(batches(SAMPLES, seed=7), expected, strict=True):
                worst = max(worst, float((outputs(model, tokens) - before).abs().max() / before.abs().max()))
        for name, parameter in model.named_parameters():
            parameter.copy_(kept[name])
    return worst


def unit(name: str) -> float:
    """The relative rounding of a draw's weights."""
    return float(torch.finfo(DTYPES[name][0]).eps)


def digits(tensor: torch.Tensor) -> set[Any]:
    """The binary digits of all entries without their powers of two."""
    mantissas = torch.frexp(tensor.double().abs().flatten()).mantissa
    return set(mantissas[mantissas != 0].tolist())
