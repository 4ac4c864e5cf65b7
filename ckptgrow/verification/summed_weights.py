"""A grown weight's sums over the copies of its inputs, against the small weight times a factor, block by block.

What is left is judged entry by entry against exact arithmetic on the stored numbers: with c the copies of an input and
u one rounding of the stored dtype,

    | Σ_c W'[o, (i, c)] − factor · W[src o, i] |  ≤  u · Σ_c |W'[o, (i, c)]|

which is all that storing rounded terms can leave. Where nearly all copies are shares of the weight (no noise) and sum
to it to the bit (a split, or shares that are powers of two) all must.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ckptgrow.verification.magnitude import largest
from ckptgrow.verification.pair import Link
from ckptgrow.verification.precision import rounding, smallest
from ckptgrow.verification.shares import Shared, measured_strength
from ckptgrow.verification.tensor_blocks import BlockTensors, Tensors, exact_sum, row_sums

NEARLY_ALL = 0.9  # of the entries: a rounded sum hits the exact one by chance far less often
SHARES = 4.0  # roundings of the stored dtype in a share of up to twice the weight, and in the rest of it
SUMS = 8.0  # roundings of float64 in the sums and products here


@dataclass(frozen=True, kw_only=True)
class Sums:
    """What the sums of a grown weight's copies come to.

    `products`: of the sums with the small weight; `squares`: of the small weight; `largest`: the largest sum;
    `largest_small`: the largest small entry; `difference`: the largest difference from the small weight times the
    factor, infinity for NaN; `terms`: the largest sum of the copies' magnitudes.
    """

    products: float
    squares: float
    largest: float
    largest_small: float
    difference: float
    terms: float

    @classmethod
    def of(cls, tensors: Tensors, factor: float) -> Sums:
        """Those of a tensor, in one pass."""
        products, squares, found = list[float](), list[float](), list[tuple[float, float, float, float]]()
        for part in tensors.parts():
            small, summed = part.link.rows_of(part.small), part.link.summed_inputs(part.grown)
            products += row_sums(summed * small)
            squares += row_sums(small.square())
            terms = part.link.summed_inputs(part.stored.double().abs())
            found.append((largest(summed), largest(small), largest(summed - factor * small), largest(terms)))
        of_sums, of_small, differences, of_terms = map(max, zip(*found, strict=True))
        return cls(
            products=exact_sum(products),
            squares=exact_sum(squares),
            largest=of_sums,
            largest_small=of_small,
            difference=differences,
            terms=of_terms,
        )


@dataclass(frozen=True)
class SumDifference:
    """How far a grown tensor's sums are from the small tensor times a factor.

    `largest`: the largest difference, `largest_small`: the largest small entry; `roundings`: see `roundings`.
    """

    largest: float
    largest_small: float
    roundings: float

    @property
    def is_wrong(self) -> bool:
        """Whether storing rounded terms cannot leave that much."""
        return not self.roundings <= 1


def summed_difference(tensors: Tensors, factor: float, num_growths: int) -> SumDifference:
    """The difference with a factor that is known."""
    if are_exact_sums(tensors, factor):
        return SumDifference(0.0, 0.0, 0.0)
    sums = Sums.of(tensors, factor)
    return SumDifference(sums.difference, sums.largest_small, roundings(tensors, factor, sums, num_growths))


def are_exact_sums(tensors: Tensors, factor: float) -> bool:
    """Whether all sums are the small weight times the factor, to the last bit of float64."""
    return not any(
        bool((part.link.summed_inputs(part.grown) - part.link.rows_of(part.small * factor)).any())  # NaN is no zero
        for part in tensors.parts()
    )


def roundings(tensors: Tensors, factor: float, sums: Sums, num_growths: int) -> float:
    """The largest difference between sums over copies and expected sums, in units of what storing may leave there.

    `sums`: those with this factor. Infinity for NaN.
    """
    if sums.difference == 0 or math.isinf(sums.difference):
        return sums.difference
    found = [_left_in(part, factor, sums.terms, num_growths) for part in tensors.parts()]
    num_exact, num_sums = sum(one.num_exact for one in found), sum(one.num_sums for one in found)
    is_exact = num_exact / num_sums >= NEARLY_ALL if num_sums else True
    if is_exact and _is_dealt(tensors, factor):
        return max(one.over_exact for one in found)
    return max(one.over_rounded for one in found)


@dataclass(frozen=True, kw_only=True)
class _Left:
    """What the sums in one block leave: the largest difference over what rounded shares may leave (`over_rounded`),
    and over what shares may that are powers of two (`over_exact`); of these sums' number those that are exact.
    """

    over_rounded: float
    over_exact: float
    num_exact: int
    num_sums: int


def _left_in(part: BlockTensors, factor: float, largest_terms: float, num_growths: int) -> _Left:
    link, dtype = part.link, part.stored.dtype
    expected = factor * link.rows_of(part.small)
    differences = (link.summed_inputs(part.grown) - expected).abs_()
    terms = link.summed_inputs(part.stored.double().abs())
    # noise is a difference of draws as large as the largest entry, computed in float64
    size = largest_terms + abs(link.grown.layout.offset)
    computed = SUMS * rounding(torch.float64) * (terms + expected.abs() + size)
    if dtype != torch.float64:
        computed = computed + link.num_terms * smallest(dtype)
    once = computed + num_growths * rounding(dtype) * terms + link.num_terms * smallest(dtype)
    rounded = _are_rounded(link).expand_as(differences)
    is_exact = (differences <= computed)[~rounded]
    return _Left(
        over_rounded=_over(differences, once),
        over_exact=_over(differences, torch.where(rounded, once, computed)),
        num_exact=int(is_exact.sum()),
        num_sums=is_exact.numel(),
    )


def _over(differences: torch.Tensor, allowed: torch.Tensor) -> float:
    return largest(differences / torch.where(allowed > 0, allowed, torch.finfo(torch.float64).tiny))


def _is_dealt(tensors: Tensors, factor: float) -> bool:
    """Whether (nearly) every copy reads the larger or the smaller share of its weight: then nothing was added to them.

    Sums of terms that cancel are often exact by chance, mostly where these are small.
    """
    link = tensors.link
    if all(int(link.growths[axis].num_copies.max()) == 1 for axis in link.in_axes):
        return True
    strength = measured_strength(Shared.of(part, factor) for part in tensors.parts())
    unit = SHARES * rounding(tensors.new.dtype)
    num_shares = num_copies = 0
    for part in tensors.parts():
        shared = Shared.of(part, factor)
        for distance, (limit, are_copied) in shared.distances(strength, unit * shared.whole.abs(), shared.are_copied):
            num_shares += int(((distance <= limit) & are_copied).sum())
            num_copies += int(are_copied.sum())
    return num_shares / num_copies >= NEARLY_ALL


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
