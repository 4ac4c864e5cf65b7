"""Both models of a pair, in memory or with one layer's weights at a time, and one that is perturbed by rounding."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from ckptgrow.errors import RequestError
from ckptgrow.state.model import load_model, streamed_model
from ckptgrow.state.opening import TrainingState
from ckptgrow.verification.pair import Pair


@dataclass(frozen=True, eq=False, kw_only=True)
class Models:
    """The small and the grown model; `exact`: the small one in float32, where both compute in bfloat16.

    `perturbed`: the grown model while every weight is changed at random by up to a relative rounding of this size.
    """

    small: PreTrainedModel
    grown: PreTrainedModel
    exact: PreTrainedModel | None
    perturbed: Callable[[float], AbstractContextManager[PreTrainedModel]]


def loaded_models(pair: Pair, dtype: torch.dtype, device: str) -> Models:
    """Both in memory. Raises RequestError where there is no such device."""
    grown = loaded(pair.grown, dtype, device)

    @contextmanager
    def perturbed(size: float) -> Generator[PreTrainedModel]:
        weights = [parameter.detach().clone() for parameter in grown.parameters()]
        with torch.no_grad():
            for name, parameter in grown.named_parameters():
                parameter.copy_(_perturbed(name, parameter, size))
            yield grown
            for parameter, weight in zip(grown.parameters(), weights, strict=True):
                parameter.copy_(weight)

    return Models(
        small=loaded(pair.small, dtype, device),
        grown=grown,
        exact=loaded(pair.small, torch.float32, device) if dtype == torch.bfloat16 else None,
        perturbed=perturbed,
    )


def streamed_models(pair: Pair, dtype: torch.dtype) -> Models:
    """Both on the CPU for forward passes, with the weights of one layer in memory at a time."""

    @contextmanager
    def perturbed(size: float) -> Generator[PreTrainedModel]:
        state = pair.grown
        yield streamed_model(
            state.checkpoint, state.claim, state.config, dtype, lambda name, weight: _perturbed(name, weight, size)
        )

    small, grown = (
        streamed_model(state.checkpoint, state.claim, state.config, dtype) for state in (pair.small, pair.grown)
    )
    exact = None
    if dtype == torch.bfloat16:
        exact = streamed_model(pair.small.checkpoint, pair.small.claim, pair.small.config, torch.float32)
    return Models(small=small, grown=grown, exact=exact, perturbed=perturbed)


def loaded(state: TrainingState, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """A checkpoint's model in memory. Raises RequestError where there is no such device."""
    if device != "cpu" and not torch.cuda.is_available():
        raise RequestError(f"⟦device {device}⟧: no such device on this machine, expected cpu")
    return load_model(state.checkpoint, state.claim, state.config, dtype, device)


def _perturbed(name: str, weight: torch.Tensor, size: float) -> torch.Tensor:
    """A weight after changes of up to `size` of each entry, drawn by the parameter's name."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    draws = torch.rand(weight.shape, generator=generator, dtype=torch.float32).to(weight)
    return weight * (1 + size * (2 * draws - 1))
