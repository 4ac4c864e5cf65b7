"""Factored second moments: the factors of V = row · column / mean(row) grow so that their product grows as V does.

Source of the factors: Shazeer & Stern, "Adafactor", arXiv 1804.04235, section 3; their growth is derived in
`grown_moments`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal

import torch

from ckptgrow.spaces.gather import Gather, GrownAxis
from ckptgrow.spaces.growth import identity
from ckptgrow.storage.tensors import InMemory, LazyTensor, Made, whole

FactorKind = Literal["row", "column"]
Fill = Callable[[LazyTensor, Gather], LazyTensor]  # a gather, and how entries that copy nothing are filled


def grown_factor(kind: FactorKind, factor: LazyTensor, partner: LazyTensor, square: Gather, fill: Fill) -> LazyTensor:
    """A factor's growth along its own axes of `square`, the gather of the whole moment, times what the axis that it
    averages over contributes to its means.

    Both factors are vectors, or one vector a matrix of many, so they are computed whole. Every matrix of many (experts,
    the channels of a convolution) has its own means, so the contribution is that of the old matrix, and is spread with
    it. torch keeps the averaged axis with size 1, transformers drops it.
    """
    kept = len(factor.shape) == len(square.axes)
    removed = -1 if kind == "row" else -2
    axis = -1 if kind == "row" or not kept else -2  # the partner's axis that the factor averages over
    along = _alone(square, removed, partner.shape, axis)
    gather = _without(square, removed, kept=kept)

    def grown(tensor: torch.Tensor, by: Gather) -> torch.Tensor:
        return whole(fill(InMemory(tensor), by))

    @cache
    def all_rows() -> torch.Tensor:
        other = whole(partner).double()
        old = other.mean(axis, keepdim=True)
        new = grown(other, along).mean(axis, keepdim=True)
        share = torch.where(old == 0, 1.0, new / old)
        return grown(whole(factor).double() * share, gather).to(factor.dtype)

    return Made(gather.shape, factor.dtype, lambda start, stop: all_rows()[start:stop])


def _without(square: Gather, removed: int, *, kept: bool) -> Gather:
    """The gather of the other axes; the removed axis stays with size 1 if `kept`."""
    axes, scales = list(square.axes), list(square.scales)
    single = identity(1)
    place = slice(len(axes) + removed, len(axes) + removed + 1)
    axes[place] = [GrownAxis("batch", single)] if kept else []
    scales[place] = [single.read] if kept else []
    return Gather(tuple(axes), tuple(scales))


def _alone(square: Gather, axis: int, shape: tuple[int, ...], place: int) -> Gather:
    """The gather of one axis alone, for a tensor of `shape` that has this axis at `place`; its other axes stay."""
    axes = [GrownAxis("batch", identity(size)) for size in shape]
    scales = [identity(size).read for size in shape]
    axes[place], scales[place] = square.axes[axis], square.scales[axis]
    return Gather(tuple(axes), tuple(scales))
