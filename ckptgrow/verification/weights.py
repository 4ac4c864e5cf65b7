"""Each grown weight, summed over the copies of its inputs, is the small weight up to one factor, as the files store it.

The factor is measured, not assumed: it is what learning rates are judged by. What is left is judged entry by entry
against exact arithmetic on the stored numbers: with c the copies of an input and u one rounding of the stored dtype,

    | Σ_c W'[o, (i, c)] − factor · W[src o, i] |  ≤  u · Σ_c |W'[o, (i, c)]|

which is all that storing rounded terms can leave. Where nearly all copies are shares of the weight (no noise) and sum
to it to the bit (a split, or shares that are powers of two) all must.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from ckptgrow.spaces.growth import Growth
from ckptgrow.spaces.selection import selected
from ckptgrow.storage.tensors import whole
from ckptgrow.verification.factors import snapped, weight_factor
from ckptgrow.verification.layer_origins import is_zero_in
from ckptgrow.verification.magnitude import largest, power
from ckptgrow.verification.pair import Link, Pair
from ckptgrow.verification.precision import rounding, smallest
from ckptgrow.verification.shares import distance_from_shares, measured_strength

NEARLY_ALL = 0.9  # of the entries: a rounded sum hits the exact one by chance far less often
SHARES = 4.0  # roundings of the stored dtype in a share of up to twice the weight, and in the rest of it
LIKE = 0.5  # relative, of the root mean squares of drawn weights and of what may lie in unequal pieces
SCATTER = 3.0  # standard deviations, in units of 1/√draws
SUMS = 8.0  # roundings of float64 in the sums and products here


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
    return {name: _scale(pair, name) for name in pair.links}


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
    small = link.rows_of(pair.small_tensor(link))
    grown = pair.grown_tensor(link)
    if link.is_new_layer and not bool(grown.any()) and _may_be_zero(link):
        return WeightScale(None, 0.0, 0.0)
    if link.layer.is_drawn and link.grown.layout.kind != "gain":
        return _drawn_scale(link, small, grown)
    summed = link.summed_inputs(grown)
    squares = power(small)
    if squares == 0:
        left = largest(summed)
        return WeightScale(None, left, math.inf if left > 0 else 0.0)
    # a layer's share is not a power of a size's ratio
    factor = link.share * snapped(float((summed * small).sum()) / squares / link.share, link.ratios)
    if not math.isfinite(factor):
        return WeightScale(None, math.inf, math.inf)
    differences = torch.sub(summed, small, alpha=factor).abs_()
    error = largest(differences) / (max(abs(factor), 1e-30) * largest(small))
    return WeightScale(factor, error, _roundings(pair, link, differences, factor * small))


def _drawn_scale(link: Link, small: torch.Tensor, grown: torch.Tensor) -> WeightScale:
    """Of a layer that was drawn: biases are zero, matrices as large as the small one's."""
    if link.grown.layout.kind == "bias":
        left = largest(grown)
        return WeightScale(None, left, math.inf if left > 0 else 0.0)
    sizes = [math.sqrt(power(one) / one.numel()) for one in (small, grown)]
    error = abs(sizes[1] - sizes[0]) / sizes[0] if sizes[0] else sizes[1]
    return WeightScale(None, error, 0.0 if error <= LIKE + SCATTER / math.sqrt(grown.numel()) else math.inf)


def _may_be_zero(link: Link) -> bool:
    """Whether a tensor of zeros is right here, because it makes its new layer an identity."""
    return any(is_zero_in(kind, link.grown) for kind in link.layer.zeroed)


def _is_dealt(link: Link, stored: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether (nearly) every copy reads the larger or the smaller share of its weight: then nothing was added to them.

    Sums of terms that cancel are often exact by chance, mostly where these are small.
    """
    counts = torch.ones(1, dtype=torch.float64)
    for axis in link.in_axes:
        expected = selected(expected, axis, link.growths[axis].source)
        counts = counts * link.along(axis, link.growths[axis].num_copies.astype(np.float64))
    part = stored.double(), expected, counts.expand_as(expected)
    left = SHARES * rounding(stored.dtype) * expected.abs()
    is_share = distance_from_shares(part, measured_strength([part])) <= left
    is_share = is_share[part[2] > 1]
    return not is_share.numel() or float(is_share.double().mean()) >= NEARLY_ALL


def _roundings(pair: Pair, link: Link, differences: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference in units of what storing may leave there; infinity for NaN."""
    stored = link.copied_part(whole(pair.grown.checkpoint.tensors[link.grown.name]))
    return roundings(link, stored, differences, expected, pair.num_growths)


def roundings(
    link: Link, stored: torch.Tensor, differences: torch.Tensor, expected: torch.Tensor, num_growths: int
) -> float:
    """The largest difference between sums over copies and expected sums, in units of what storing may leave there.

    `stored`: the grown weight in its stored dtype; `differences` and `expected`: in the shape of the summed weight.
    Infinity for NaN.
    """
    worst = largest(differences)
    if worst == 0 or math.isinf(worst):
        return worst
    terms = link.summed_inputs(stored.double().abs())
    # noise is a difference of draws as large as the largest entry, computed in float64
    size = largest(terms) + abs(link.grown.layout.offset)
    computed = SUMS * rounding(torch.float64) * (terms + expected.abs() + size)
    if stored.dtype != torch.float64:
        computed = computed + link.num_terms * smallest(stored.dtype)
    once = computed + num_growths * rounding(stored.dtype) * terms + link.num_terms * smallest(stored.dtype)
    rounded = _are_rounded(link).expand_as(differences)
    is_exact = (differences <= computed)[~rounded]
    exact = float(is_exact.double().mean()) if is_exact.numel() else 1.0
    if exact < NEARLY_ALL or not _is_dealt(link, stored, expected):
        allowed = once
    else:
        allowed = torch.where(rounded, once, computed)
    return largest(differences / torch.where(allowed > 0, allowed, torch.finfo(torch.float64).tiny))


def _are_rounded(link: Link) -> torch.Tensor:
    """Whether an input's even share is not a power of two and so is rounded; broadcastable over the summed weight."""
    exact = torch.ones([1] * len(link.growths), dtype=torch.bool)
    for axis in link.in_axes:
        growth = link.growths[axis]
        mantissas, _ = np.frexp(growth.read)
        is_power = np.ones(growth.num_old, dtype=bool)
        is_power[growth.source[mantissas != 0.5]] = False
        exact = exact & link.along(axis, is_power)
    return ~exact
