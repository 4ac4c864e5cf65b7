"""Factored second moments: one factor of V = row · column / mean(row) grows so that the product does.

Source of the factors: Shazeer & Stern, "Adafactor", arXiv 1804.04235, section 3; their growth is derived in `moments`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch

from ckptgrow.checkpoints.tensors import LazyTensor, whole
from ckptgrow.growth.tensors import Grown
from ckptgrow.spaces.gather import Gather, GrownAxis, TensorGrowth
from ckptgrow.spaces.growth import identity

FactorKind = Literal["row", "column"]


@dataclass(frozen=True, eq=False)
class GrownFactor:
    """A factor's growth along its own axis, times what the other axis contributes to its means. Both are vectors, or
    one vector a batch entry, so they are computed whole.
    """

    old: LazyTensor
    gather: Gather
    partner: LazyTensor
    partner_gather: Gather
    averaged: int  # the partner's axis that the factor averages over

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
        old = whole(self.partner).double().mean(self.averaged, keepdim=True)
        new = whole(Grown(self.partner, self.partner_gather)).double().mean(self.averaged, keepdim=True)
        share = torch.where(old == 0, 1.0, new / old)
        return (whole(Grown(self.old, self.gather)).double() * share).to(self.dtype)


def grown_factor(kind: FactorKind, factor: LazyTensor, partner: LazyTensor, growth: TensorGrowth) -> GrownFactor:
    """The growth of a row or column factor; torch keeps the averaged axis with size 1, transformers drops it."""
    kept = len(factor.shape) == len(growth.axes)
    row, column = (_without(growth.square, removed, kept=kept) for removed in (-1, -2))
    own, other = (row, column) if kind == "row" else (column, row)
    averaged = -1 if kind == "row" or not kept else -2
    return GrownFactor(factor, own, partner, other, averaged)


def _without(square: Gather, removed: int, *, kept: bool) -> Gather:
    """The gather of the other axes; the removed one stays with size 1, or goes."""
    axes, scales = list(square.axes), list(square.scales)
    single = identity(1)
    place = slice(len(axes) + removed, len(axes) + removed + 1)
    axes[place] = [GrownAxis("batch", single)] if kept else []
    scales[place] = [single.read] if kept else []
    return Gather(tuple(axes), tuple(scales))
