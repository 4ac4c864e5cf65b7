"""Which axis of a tensor is read and which is written, and what a vector is, from gradients alone.

The gradient of a matrix is a sum over tokens t of δ(t) ⊗ x(t). Other weights of the logits change every δ and no x, so
the gradients of many sums of logits over the same T tokens span T dimensions along the axis that is read, and more
along the one that is written. A gain that is zero silences what reads it, and so the gradients there vanish; a bias
does not. A gain that is stored without its 1 does so at −1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ckptgrow.drafting.observed_model import Observed

VectorKind = Literal["gain", "1+gain", "bias"]
TOKENS, DRAWS = 3, 12
EFFECTS = 4  # with as many equations each as the stream has coordinates
RANK = 1e-9  # of the largest singular value
NOTHING = 1e-12  # of the largest gradient: rounding, of what is exactly zero in real numbers


@dataclass(frozen=True)
class AxisRanks:
    """For each axis of one tensor: how many dimensions its gradients span along it, and its length."""

    ranks: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def read(self) -> int | None:
        """The axis that is read; None where these gradients do not tell."""
        narrow = [axis for axis, rank in enumerate(self.ranks) if 0 < rank <= TOKENS and self.lengths[axis] > 1]
        told = [axis for axis in narrow if self.lengths[axis] > TOKENS]
        found = narrow if len(narrow) == 1 else told
        return found[0] if len(found) == 1 else None


def axis_ranks(observed: Observed) -> Mapping[str, AxisRanks]:
    """The ranks of every matrix's gradients over `TOKENS` tokens, by its name."""
    sample = observed.sample(7, 1, TOKENS)
    drawn = [observed.gradients(seed, sample) for seed in range(DRAWS)]
    found: dict[str, AxisRanks] = {}
    for name, parameter in observed.parameters.items():
        if sum(length > 1 for length in parameter.shape) > 1:
            stacked = torch.stack([one[name] for one in drawn])
            ranks = (_rank(stacked.movedim(axis + 1, 0).flatten(1)) for axis in range(parameter.dim()))
            found[name] = AxisRanks(tuple(ranks), tuple(parameter.shape))
    return found


def _rank(matrix: torch.Tensor) -> int:
    values = torch.linalg.svdvals(matrix)
    return int((values > RANK * values.max()).sum()) if len(values) and float(values.max()) > 0 else 0


def vector_kind(observed: Observed, name: str, bias: str | None) -> VectorKind:
    """What a vector is: a gain, stored with or without its 1, or what is added; `bias` is the norm's own, if any."""
    parameter = observed.parameters[name].detach()
    zero = {bias: torch.zeros_like(observed.parameters[bias])} if bias is not None else {}
    own = silent(observed.gradients(0))
    kinds: tuple[tuple[VectorKind, float], ...] = (("gain", 0.0), ("1+gain", -1.0))
    for kind, value in kinds:
        with observed.replaced({name: torch.full_like(parameter, value), **zero}):
            if silent(observed.gradients(0)) - own - {name, bias}:
                return kind
    return "bias"


def silent(gradients: Mapping[str, torch.Tensor]) -> set[str]:
    """The names of tensors without any gradient."""
    largest = max(float(one.abs().max()) for one in gradients.values())
    return {name for name, one in gradients.items() if float(one.abs().max()) <= NOTHING * largest}


def scale_effects(observed: Observed) -> list[dict[str, torch.Tensor]]:
    """For some draws the gradients of random sums of logits, on other samples each."""
    return [observed.gradients(100 + seed) for seed in range(EFFECTS)]


@dataclass(frozen=True)
class GainReading:
    """Which matrices read what a gain writes: those whose columns, divided, undo that its coordinates are multiplied;
    `offset` is the 1 that it is stored without, or 0. Both None where no matrices do.
    """

    readers: tuple[str, ...]
    offset: float


def readers_of(
    observed: Observed,
    gain: str,
    bias: str | None,
    candidates: Sequence[tuple[str, int]],
    effects: Sequence[Mapping[str, torch.Tensor]],
) -> GainReading | None:
    """The matrices, each with the axis that it reads by, that alone read what a gain writes; None where there are none.

    Multiplying coordinate i of the gain and of its bias by 1 + ε does to every logit what multiplying entry i of the
    right matrices' axis does: solved for the share of each matrix, which is 1 or 0.
    """
    values = {name: one.detach() for name, one in observed.parameters.items()}
    columns = [torch.cat([_along(one[name] * values[name], axis) for one in effects]) for name, axis in candidates]
    if not columns:
        return None
    added = torch.cat([one[bias] * values[bias] for one in effects]) if bias is not None else 0.0
    for offset in (0.0, 1.0):
        wanted = torch.cat([one[gain] * (values[gain] + offset) for one in effects]) + added
        found = _shares(torch.stack(columns, 1), wanted)
        if found is not None:
            names = tuple(name for (name, _), share in zip(candidates, found, strict=True) if share)
            return GainReading(names, offset) if names else None
    return None


def _along(product: torch.Tensor, axis: int) -> torch.Tensor:
    others = [one for one in range(product.dim()) if one != axis]
    return product.sum(others) if others else product


def _shares(columns: torch.Tensor, wanted: torch.Tensor) -> list[int] | None:
    """For every column whether it is part of a sum that is what is wanted; None where there is no such sum."""
    found = torch.linalg.lstsq(columns, wanted[:, None], driver="gelsd").solution[:, 0]
    shares = found.round().clamp(0, 1)
    rest = wanted - columns @ shares
    return [int(one) for one in shares] if float(rest.norm()) <= 1e-7 * float(wanted.norm()) else None


def read_spans(observed: Observed, axes: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """An orthonormal basis of what each matrix reads of `TOKENS` tokens, by its name; shape (length, dimensions)."""
    sample = observed.sample(7, 1, TOKENS)
    drawn = [observed.gradients(seed, sample) for seed in range(DRAWS)]
    found: dict[str, torch.Tensor] = {}
    for name, axis in axes.items():
        unfolded = torch.stack([one[name] for one in drawn]).movedim(axis + 1, 0).flatten(1)
        left, values, _ = torch.linalg.svd(unfolded, full_matrices=False)
        found[name] = left[:, : int((values > RANK * values.max()).sum())] if float(values.max()) > 0 else left[:, :0]
    return found
