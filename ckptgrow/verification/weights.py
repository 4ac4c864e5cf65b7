"""Each grown weight, summed over the copies of its inputs, is the small weight up to one factor.

The factor is measured, not assumed: it is what learning rates are judged by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch

from ckptgrow.verification.magnitude import largest, power
from ckptgrow.verification.pair import Pair

LARGEST_DENOMINATOR = 1024


@dataclass(frozen=True)
class WeightScale:
    """`factor`: of the summed weight, None where the small weight is zero; `error`: what is left, relative to the
    largest value.
    """

    factor: float | None
    error: float


def weight_scales(pair: Pair) -> Mapping[str, WeightScale]:
    """Every old parameter's scale, by the grown name."""
    return {name: _scale(pair, name) for name, link in pair.links.items() if link.fresh is None}


def _scale(pair: Pair, name: str) -> WeightScale:
    link = pair.links[name]
    small = link.rows_of(pair.small_tensor(link))
    summed = link.summed_inputs(pair.grown_tensor(link))
    squares = power(small)
    if squares == 0:
        return WeightScale(None, largest(summed))
    factor = snapped(float((summed * small).sum()) / squares)
    if not math.isfinite(factor):
        return WeightScale(None, math.inf)
    difference = largest(torch.sub(summed, small, alpha=factor))
    return WeightScale(factor, difference / (max(abs(factor), 1e-30) * largest(small)))


def snapped(value: float, tolerance: float = 1e-4) -> float:
    """The simple fraction that a measured factor stands for, or the root of one; the value where there is none."""
    if not math.isfinite(value):
        return value
    fraction, square = (Fraction(number).limit_denominator(LARGEST_DENOMINATOR) for number in (value, value**2))
    is_root = 0 < square.denominator < fraction.denominator**2
    found = math.copysign(math.sqrt(square), value) if is_root else float(fraction)
    return found if abs(found - value) <= tolerance * abs(value) else value
