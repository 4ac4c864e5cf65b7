"""A tiny model whose parameters lie far from their initialisation, its logits, and gradients of draws of them."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import PreTrainedModel

from ckptgrow.verification.model_inputs import inputs_of
from ckptgrow.verification.precision import computing_in

State = Mapping[str, torch.Tensor]
EXACT = 1e-9  # of the largest logit: sums of float64 in another order, deepened by a few layers
LENGTH = 12  # tokens
WEIGHTS, VECTORS = 0.2, 0.4  # how far matrices and vectors are moved


@dataclass(frozen=True, eq=False, kw_only=True)
class Observed:
    """A model in float64, and the number from which its samples are drawn."""

    model: PreTrainedModel
    vocabulary: int
    seed: int = 0
    image: tuple[int, int] | None = None  # channels, and pixels on a side, of models that see

    @cached_property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """By name; of tied ones the embedding's name, or else the first, alone."""
        inside = self.model.get_input_embeddings()
        place = next((name for name, one in self.model.named_modules() if one is inside), "")
        embedding = getattr(inside, "weight", None)
        named = self.model.named_parameters()
        return {f"{place}.weight" if one is embedding else name: one for name, one in named}

    def sample(self, seed: int = 0, sequences: int = 2, length: int = LENGTH) -> torch.Tensor:
        """Token ids, int64, shape (sequences, length), or images."""
        generator = torch.Generator().manual_seed(1000 * self.seed + seed)
        if self.image is not None:
            channels, pixels = self.image
            return torch.randn(sequences, channels, pixels, pixels, generator=generator, dtype=torch.float64)
        return torch.randint(1, self.vocabulary, (sequences, length), generator=generator)

    def logits(self, sample: torch.Tensor) -> torch.Tensor:
        """The logits on a sample, with gradients where torch keeps them."""
        with computing_in(torch.float64):
            return self.model(**inputs_of(self.model, sample)).logits

    @cached_property
    def own(self) -> torch.Tensor:
        """The logits of the model as it is, on the first sample."""
        with torch.no_grad():
            return self.logits(self.sample())

    def difference(self, state: State) -> float:
        """By how much the logits change where parameters are replaced, relative to the largest."""
        with self.replaced(state), torch.no_grad():
            found = self.logits(self.sample())
        return float((found - self.own).abs().max() / self.own.abs().max())

    def gradients(self, seed: int, sample: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """The gradients of a random sum of logits, by name; zeros where a parameter has none."""
        generator = torch.Generator().manual_seed(2000 * self.seed + seed)
        self.model.zero_grad(set_to_none=True)
        with torch.enable_grad():
            logits = self.logits(self.sample(seed) if sample is None else sample)
            drawn = torch.randn(logits.shape, generator=generator, dtype=logits.dtype)
            (logits * drawn).sum().backward()
        found = {
            name: torch.zeros_like(one) if one.grad is None else one.grad.clone()
            for name, one in self.parameters.items()
        }
        self.model.zero_grad(set_to_none=True)
        return found

    @contextmanager
    def replaced(self, state: State) -> Generator[None]:
        """Some parameters replaced for a while."""
        before = {name: self.parameters[name].detach().clone() for name in state}
        try:
            with torch.no_grad():
                for name, value in state.items():
                    self.parameters[name].copy_(value)
            yield
        finally:
            with torch.no_grad():
                for name, value in before.items():
                    self.parameters[name].copy_(value)


def moved(model: PreTrainedModel, seed: int, scale: float = 1.0) -> PreTrainedModel:
    """Moves every parameter (in place) far from where it began: matrices by `WEIGHTS`, vectors by `VECTORS`."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(drawn * scale * (WEIGHTS if parameter.dim() > 1 else VECTORS))
    return model
