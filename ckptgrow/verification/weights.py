"""Each grown weight, summed over the copies of its inputs, is the small weight up to one factor, as the files store it.

The factor is measured, not assumed: it is what learning rates are judged by. What is left is judged entry by entry
(`summed_weights`).

A factor that one block shows, and with which every sum is exact, is the least-squares factor of all: most tensors are
read but once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ckptgrow.spaces.growth import Growth
from ckptgrow.storage.tensors import num_elements
from ckptgrow.verification.factors import snapped, weight_factor
from ckptgrow.verification.layer_origins import is_zero_in
from ckptgrow.verification.magnitude import largest
from ckptgrow.verification.pair import Link, Pair
from ckptgrow.verification.summed_weights import Sums, are_exact_sums, roundings
from ckptgrow.verification.tensor_blocks import Tensors, exact_sum, row_sums
from ckptgrow.verification.threads import in_threads

LIKE = 0.5  # relative, of the root mean squares of drawn weights and of what may lie in unequal pieces
SCATTER = 3.0  # standard deviations, in units of 1/√draws


@dataclass(frozen=True)
class WeightScale:
    """How one grown weight relates to its small one.

    `factor`: by how much the summed weight is larger, None where the small weight is zero; `error`: the largest
    difference, relative to the largest value; `roundings`: the largest difference in units of what storing may leave,
    at most 1 where the weight is right.
    """

    factor: float | None
    error: float
    roundings: float


def weight_scales(pair: Pair) -> Mapping[str, WeightScale]:
    """Every parameter's scale, by its grown name.

    Parameters of new layers must be zero where they make the layer an identity; else they are compared with the layer
    that theirs was made from.
    """
    scales = in_threads(
        lambda name: _scale(pair, name), [*pair.links], lambda name: num_elements(pair.grown.checkpoint.tensors[name])
    )
    return dict(zip(pair.links, scales, strict=True))


def completed(
    scales: Mapping[str, WeightScale], pair: Pair, growths: Mapping[str, Growth]
) -> Mapping[str, WeightScale]:
    """The scales with factors for weights of zeros too, from the factors f with which the spaces are written."""
    return {
        name: replace(scale, factor=weight_factor(pair.links[name].grown.layout, growths))
        if scale.factor is None and not pair.links[name].is_padded
        else scale
        for name, scale in scales.items()
    }


def _scale(pair: Pair, name: str) -> WeightScale:
    link = pair.links[name]
    tensors = Tensors.of(pair, link)
    if link.is_new_layer and _may_be_zero(link) and not tensors.has_entries():
        return WeightScale(None, 0.0, 0.0)
    if link.layer.is_drawn and link.grown.layout.kind != "gain":
        return _drawn_scale(tensors)
    guess = _first_factor(tensors)
    if guess is not None and are_exact_sums(tensors, guess):
        return WeightScale(guess, 0.0, 0.0)
    sums = Sums.of(tensors, guess or 0.0)
    if sums.squares == 0:
        left = sums.largest
        return WeightScale(None, left, math.inf if left > 0 else 0.0)
    factor = _factor(link, sums.products, sums.squares)
    if not math.isfinite(factor):
        return WeightScale(None, math.inf, math.inf)
    if factor != guess:
        sums = Sums.of(tensors, factor)
    error = sums.difference / (max(abs(factor), 1e-30) * sums.largest_small)
    return WeightScale(factor, error, roundings(tensors, factor, sums, pair.num_growths))


def _first_factor(tensors: Tensors) -> float | None:
    """The factor that the first block shows; None where that is zero, or shows none."""
    for part in tensors.parts():
        small = part.link.rows_of(part.small)
        squares = exact_sum(row_sums(small.square()))
        if squares > 0:
            products = exact_sum(row_sums(part.link.summed_inputs(part.grown) * small))
            factor = _factor(tensors.link, products, squares)
            return factor if math.isfinite(factor) else None
    return None


def _factor(link: Link, products: float, squares: float) -> float:
    """The least-squares factor, or the exact one near it; a layer's share is not a power of a size's ratio."""
    return link.share * snapped(products / squares / link.share, link.ratios)


def _drawn_scale(tensors: Tensors) -> WeightScale:
    """Of a layer that was drawn: biases are zero, matrices as large as the small one's."""
    link = tensors.link
    if link.grown.layout.kind == "bias":
        left = max((largest(part.grown) for part in tensors.parts()), default=0.0)
        return WeightScale(None, left, math.inf if left > 0 else 0.0)
    squares, num_entries = ([], []), [0, 0]
    for part in tensors.parts():
        for place, one in enumerate((part.link.rows_of(part.small), part.grown)):
            squares[place].extend(row_sums(one.square()))
            num_entries[place] += one.numel()
    sizes = [math.sqrt(exact_sum(one) / num) for one, num in zip(squares, num_entries, strict=True)]
    error = abs(sizes[1] - sizes[0]) / sizes[0] if sizes[0] else sizes[1]
    return WeightScale(None, error, 0.0 if error <= LIKE + SCATTER / math.sqrt(num_entries[1]) else math.inf)


def _may_be_zero(link: Link) -> bool:
    """Whether a tensor of zeros is right here, because it makes its new layer an identity."""
    return any(is_zero_in(kind, link.grown) for kind in link.layer.zeroed)
