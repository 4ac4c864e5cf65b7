"""Factored second moments: one factor of V = row · column / mean(row) grows so that the product does.

Source of the factors: Shazeer & Stern, "Adafactor", arXiv 1804.04235, section 3; their growth is derived in
`grown_moments`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch

from ckptgrow.growth.tensors.fresh_entries import Averaged
from ckptgrow.growth.tensors.grown_tensors import Gathered
from ckptgrow.spaces.gather import Gather, GrownAxis, TensorGrowth
from ckptgrow.spaces.growth import identity
from ckptgrow.storage.tensors import Held, LazyTensor, whole

FactorKind = Literal["row", "column"]


@dataclass(frozen=True, eq=False)
class GrownFactor:
    """A factor's growth along its own axes, times what the axis that it averages over contributes to its means. Both
    factors are vectors, or one vector a matrix of many, so they are computed whole.

    Every matrix of many (experts, the channels of a convolution) has its own means, so the contribution is that of the
    old matrix, and is spread with it.
    """

    old: LazyTensor
    gather: Gather
    partner: LazyTensor
    partner_gather: Gather  # of the averaged axis alone
    averaged: int  # the partner's axis that the factor averages over
    filled: bool  # whether entries that copy nothing are means of old ones, else zero

    @property
    def shape(self) -> tuple[int, ...]:
        """See LazyTensor."""
        return self.gather.shape

    @property
    def dtype(self) -> torch.dtype:
        """See LazyTensor."""
        return self.old.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        return self._whole[start:stop]

    @cached_property
    def _whole(self) -> torch.Tensor:
        partner = whole(self.partner).double()
        old = partner.mean(self.averaged, keepdim=True)
        new = self._grown(partner, self.partner_gather).mean(self.averaged, keepdim=True)
        share = torch.where(old == 0, 1.0, new / old)
        return self._grown(whole(self.old).double() * share, self.gather).to(self.dtype)

    def _grown(self, tensor: torch.Tensor, gather: Gather) -> torch.Tensor:
        grown = Averaged(Held(tensor), gather) if self.filled else Gathered(Held(tensor), gather)
        return whole(grown)


def grown_factor(
    kind: FactorKind, factor: LazyTensor, partner: LazyTensor, growth: TensorGrowth, *, filled: bool
) -> GrownFactor:
    """The growth of a row or column factor; torch keeps the averaged axis with size 1, transformers drops it."""
    kept = len(factor.shape) == len(growth.axes)
    removed = -1 if kind == "row" else -2
    averaged = -1 if kind == "row" or not kept else -2
    along = _alone(growth.square, removed, partner.shape, averaged)
    return GrownFactor(factor, _without(growth.square, removed, kept=kept), partner, along, averaged, filled)


def _without(square: Gather, removed: int, *, kept: bool) -> Gather:
    """The gather of the other axes; the removed one stays with size 1, or goes."""
    axes, scales = list(square.axes), list(square.scales)
    single = identity(1)
    place = slice(len(axes) + removed, len(axes) + removed + 1)
    axes[place] = [GrownAxis("batch", single)] if kept else []
    scales[place] = [single.read] if kept else []
    return Gather(tuple(axes), tuple(scales))


def _alone(square: Gather, axis: int, shape: tuple[int, ...], place: int) -> Gather:
    """The gather of one axis of a tensor, at its place in another of that shape, whose other axes stay."""
    axes = [GrownAxis("batch", identity(size)) for size in shape]
    scales = [identity(size).read for size in shape]
    axes[place], scales[place] = square.axes[axis], square.scales[axis]
    return Gather(tuple(axes), tuple(scales))
