"""Every parameter's gradient, by autograd in both real models, against what the growth of the spaces demands.

The factor of a gradient is b_out · f_in, with the f and b that the weights show (`factors`). It is exact in any dtype,
and known even for gradients that are nothing but rounding; autograd confirms it. Splits and noise, which do not change
the function, do change gradients, and so does the rounding of stored weights. So that the moments are judged by the
source's gradients alone, the grown model gets ideal weights: the small one's, times the factor of each weight, shared
evenly over the copies of its inputs. `weights` judges the stored weights against these, entry by entry.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ckptgrow.spaces.growth import Growth
from ckptgrow.storage.tensors import LazyTensor
from ckptgrow.verification.factors import gradient_factors
from ckptgrow.verification.magnitude import largest
from ckptgrow.verification.pair import Link, Pair
from ckptgrow.verification.tensor_blocks import Block, blocks_of, copies, exact_sum, pieces, row_sums
from ckptgrow.verification.weights import WeightScale

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Gradients = Mapping[str, LazyTensor]  # by parameter name
INEXACT = 1e-3  # behind a LayerNorm what writes new residual coordinates feels them, by percents
OTHER = 0.2  # relative: factors of two copies and more differ by at least 29 %
DEAD = 1e-9  # relative to the model's largest gradient: key biases under softmax have none


@dataclass(frozen=True)
class GradientScale:
    """How one parameter's gradient in the grown model relates to that in the small one.

    `factors`: what the spaces demand, one number for each class of copies (`Link.copy_classes`), float64; `ratio`: by
    how much autograd's gradient is larger than demanded, by least squares, None where the gradient is always zero or
    nothing is demanded; `error`: the largest difference from what is demanded, relative to the largest entry.
    """

    factors: torch.Tensor
    ratio: float | None
    error: float

    def at(self, link: Link) -> torch.Tensor:
        """The factors of all grown entries, in the grown tensor's shape; shape (1,) where they are one number."""
        return self.factors if self.factors.numel() == 1 else self.factors[link.copy_classes()]


def largest_gradient(gradients: Gradients) -> float:
    """The magnitude of the largest entry of all."""
    return max(map(_largest, gradients.values()), default=0.0)


def gradient_scale(
    link: Link,
    weight: float | None,
    growths: Mapping[str, Growth],
    old: LazyTensor | None,
    new: LazyTensor | None,
    scale_of_all: float,
) -> GradientScale:
    """The scale of a parameter outside new layers, from its gradients in both models; None where it has none.

    `weight`: the factor of its weight; `growths`: the measured ones (`factors.measured_growths`); `scale_of_all`: the
    small model's largest gradient.
    """
    demanded = _demanded(link, weight, growths) * link.share_of_gradient
    if old is None or new is None or _largest(old) <= DEAD * scale_of_all:
        left = 0.0 if new is None or old is None else _largest(new) / scale_of_all
        return GradientScale(demanded, None, left)
    return _compared(link, GradientScale(demanded, None, 0.0), old, new)


def demanded_scales(
    pair: Pair, weights: Mapping[str, WeightScale], growths: Mapping[str, Growth]
) -> Mapping[str, GradientScale]:
    """The scale of every parameter outside new layers by what the spaces demand, which no autograd has confirmed."""
    return {
        name: GradientScale(_demanded(link, weights[name].factor, growths) * link.share_of_gradient, None, 0.0)
        for name, link in pair.links.items()
        if not link.is_new_layer
    }


def gradient_problems(scales: Mapping[str, GradientScale]) -> list[str]:
    """Sentences on the gradients by which autograd contradicts the factors that moments are judged by."""
    return [
        f"the gradient of {name} is {scale.ratio:.3g} times what its copies demand"
        for name, scale in scales.items()
        if scale.ratio is not None and not abs(scale.ratio - 1) <= OTHER
    ]


def idealise(
    model: PreTrainedModel, pair: Pair, weights: Mapping[str, WeightScale], begun: Collection[str] = ()
) -> None:
    """Replaces the grown model's weights in place by ideal ones, as the module's head defines them; new layers stay,
    and so does what is named in `begun`, which comes from nothing in the small model.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))  # a tied head has two names
    with torch.no_grad():
        for name in idealised(pair, begun):
            fill_ideal(parameters[pair.links[name].grown.canonical], pair, pair.links[name], weights[name].factor)


def fill_ideal(weight: torch.Tensor, pair: Pair, link: Link, factor: float | None) -> None:
    """Replaces a grown weight in place, block by block."""
    small = pair.small.checkpoint.tensors[link.small.name]
    for block in blocks_of(link, tuple(weight.shape)):
        outer, *inner = map(torch.from_numpy, block.new)
        weight[(outer[:, None], *inner) if inner else outer] = _ideal(block, small, factor).to(weight)


def idealised(pair: Pair, begun: Collection[str]) -> set[str]:
    """The grown names of the weights that have ideal ones."""
    return {
        name
        for name, link in pair.links.items()
        if not (link.is_new_layer or link.is_padded or not link.has_copies or name in begun)
    }


def _ideal(block: Block, small: LazyTensor, factor: float | None) -> torch.Tensor:
    """The ideal weights of a block, float64, as they are stored."""
    link = block.link
    ideal = link.spread(block.small(small).double() + link.small.layout.offset) * (1.0 if factor is None else factor)
    for axis in link.in_axes:
        ideal *= link.along(axis, link.growths[axis].read)
    return ideal - link.grown.layout.offset


def _compared(link: Link, demanded: GradientScale, old: LazyTensor, new: LazyTensor) -> GradientScale:
    """The scale of a gradient, block by block, against the small one times the factors that are demanded."""
    products, squares, found = list[float](), list[float](), list[tuple[float, float]]()
    for block in blocks_of(link, new.shape):
        small, grown = block.small(old).double(), block.grown(new).double()
        factors = demanded.at(block.link)
        if factors.numel() == 1:
            parts = copies(block.link, (grown,), (small * factors.reshape(()),))
        else:
            parts = iter([(grown, factors * block.link.spread(small))])
        for one, expected in parts:
            found.append((largest(one - expected), largest(expected)))
            products += row_sums(one * expected)
            squares += row_sums(expected.square())
    difference, scale = (max(column) for column in zip(*found, strict=True))
    error = difference / scale if 0 < scale < math.inf and difference < math.inf else difference
    # behind a LayerNorm what writes the stream has no constant factor where new coordinates enter the mean
    total = exact_sum(squares)
    ratio = None if link.is_padded else exact_sum(products) / total if total else math.nan
    return GradientScale(demanded.factors, ratio, error)


def _largest(gradient: LazyTensor) -> float:
    return max((largest(piece) for piece in pieces(gradient)), default=0.0)


def _demanded(link: Link, weight: float | None, growths: Mapping[str, Growth]) -> torch.Tensor:
    """The factors that follow from f and b of the spaces, one for each class of copies.

    Where entries have no copies, f · b = 1, so that the factor is the inverse of the weight's.
    """
    if link.is_padded or not link.growths:
        return torch.tensor([1 / (weight or 1.0)], dtype=torch.float64)
    of_each_class = [
        np.array([np.flatnonzero(growth.read == share)[-1] for share in shares])
        for growth, shares in zip(link.growths, link.shares, strict=True)
    ]
    return gradient_factors(link.grown.layout, growths, of_each_class).reshape(-1)
