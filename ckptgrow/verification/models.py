"""Both models of a pair, in memory or with one layer's weights at a time, and one that is perturbed by rounding."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ckptgrow.errors import RequestError
from ckptgrow.state.model import load_model
from ckptgrow.state.opening import TrainingState
from ckptgrow.state.streamed_model import StreamedModel, streamed_model
from ckptgrow.verification.kept_tokens import KeptTokens
from ckptgrow.verification.pair import Pair

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Change = Callable[[str, torch.Tensor], torch.Tensor]


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
    grown = loaded(pair, pair.grown, dtype, device)

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
        small=loaded(pair, pair.small, dtype, device),
        grown=grown,
        exact=loaded(pair, pair.small, torch.float32, device) if dtype == torch.bfloat16 else None,
        perturbed=perturbed,
    )


def streamed_models(pair: Pair, dtype: torch.dtype) -> Models:
    """Both on the CPU for forward passes, with the weights of one layer in memory at a time."""

    @contextmanager
    def perturbed(size: float) -> Generator[PreTrainedModel]:
        yield streamed(pair, pair.grown, dtype, lambda name, weight: _perturbed(name, weight, size)).module

    small, grown = (streamed(pair, state, dtype).module for state in (pair.small, pair.grown))
    exact = streamed(pair, pair.small, torch.float32).module if dtype == torch.bfloat16 else None
    return Models(small=small, grown=grown, exact=exact, perturbed=perturbed)


def loaded(pair: Pair, state: TrainingState, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """The model of one of a pair in memory, on the tokens that both have.

    Raises RequestError where there is no such device.
    """
    if device != "cpu" and not torch.cuda.is_available():
        raise RequestError(f"⟦device {device}⟧: no such device on this machine, expected cpu")
    own = state.as_read
    return _on_kept_tokens(pair, state, load_model(own.checkpoint, own.claim, own.config, dtype, device))


def streamed(pair: Pair, state: TrainingState, dtype: torch.dtype, change: Change | None = None) -> StreamedModel:
    """The model of one of a pair with one layer's weights in memory at a time, on the tokens that both have; `change`
    makes of a stored name and a weight the weight that is used.
    """
    own = state.as_read
    model = streamed_model(own.checkpoint, own.claim, own.config, dtype, *([change] if change else []))
    _on_kept_tokens(pair, state, model.module)
    return model


def _on_kept_tokens(pair: Pair, state: TrainingState, model: PreTrainedModel) -> PreTrainedModel:
    kept = KeptTokens.of(pair)
    if kept is not None:
        kept.restrict(model, is_grown=state is pair.grown)
    return model


def _perturbed(name: str, weight: torch.Tensor, size: float) -> torch.Tensor:
    """A weight after changes of up to `size` of each entry, drawn by the parameter's name."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    draws = torch.rand(weight.shape, generator=generator, dtype=torch.float32).to(weight)
    return weight * (1 + size * (2 * draws - 1))
