"""The factors that growth can have put on a tensor: powers of the sizes' ratios, and one (write, read) for every space.

A measured factor is rounded where weights or gradients are; what it stands for is exact. With f = r^(j/2) the only
writes that a space of ratio r = n'/n can have, the factor of a weight f_out / f_in and that of a gradient b_out · f_in
are products of such powers. The nearest one is meant, if it is near; else the measured number stays, and fails.

All tensors that write or read a space must agree on its f: in logarithms these are linear equations,

    Σ log f over the spaces written − Σ log f over the spaces read = log(factor of the weight)

so a factor on one tensor and its inverse on another are seen although the function is the same.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ckptgrow.families.claim import Claimed
from ckptgrow.spaces.growth import Growth
from ckptgrow.spaces.layout import Axis

HALVES = (-2, -1, 0, 1, 2)  # exponents of a ratio, in halves
NEAR = 0.02  # relative: far above what rounding to bfloat16 leaves in a mean, far below any two factors' distance
SAME = 1e-6
MANY = 4


def snapped(value: float, ratios: Iterable[float]) -> float:
    """The product of powers r^(j/2) nearest to a measured factor; the value itself where none is near."""
    if not math.isfinite(value) or value == 0:
        return value
    nearest = min(_products(tuple(sorted(set(ratios) - {1.0}))), key=lambda one: abs(one - abs(value)))
    return math.copysign(nearest, value) if abs(nearest - abs(value)) <= NEAR * nearest else value


def disagreements(
    factors: Mapping[str, float | None], tensors: Mapping[str, Claimed], growths: Mapping[str, Growth]
) -> list[str]:
    """The tensors whose weight's factor no one write for every space explains; the worst first, none where all agree.

    `factors` and `tensors` are by the grown name; a factor is None where the small weight is zero.
    """
    known = [name for name, factor in factors.items() if factor]
    spaces = sorted(space for space, growth in growths.items() if not growth.is_identity)
    if not known or not spaces:
        return [name for name in known if abs((factors[name] or 0.0) - 1) > SAME]
    matrix = np.array([_equation(tensors[name].layout.axes, spaces) for name in known])
    logarithms = np.array([math.log(abs(factors[name] or 1.0)) for name in known])
    solution = _most_agreed(matrix, logarithms)
    residuals = np.abs(matrix @ solution - logarithms)
    order = np.argsort(-residuals)
    return [known[index] for index in order if residuals[index] > SAME]


def _most_agreed(matrix: np.ndarray, logarithms: np.ndarray) -> np.ndarray:
    """Least absolute residuals, by least squares reweighted: a few wrong tensors do not move what the others say."""
    weights = np.ones(len(logarithms))
    solution = np.zeros(matrix.shape[1])
    for _ in range(30):
        solution = np.linalg.lstsq(matrix * weights[:, None], logarithms * weights, rcond=None)[0]
        weights = 1 / np.sqrt(np.maximum(np.abs(matrix @ solution - logarithms), 1e-9))
    return solution


def _equation(axes: Sequence[Axis], spaces: Sequence[str]) -> list[float]:
    """The coefficients of log f: +1 for what the tensor writes, −1 for what it reads; parts of an axis in the mean."""
    row = dict.fromkeys(spaces, 0.0)
    for axis in axes:
        sign = {"out": 1.0, "in": -1.0}.get(axis.role, 0.0)
        for part in axis.parts:
            for factor in part:
                if factor in row:
                    row[str(factor)] += sign / len(axis.parts)
    return list(row.values())


def _products(ratios: tuple[float, ...]) -> list[float]:
    exponents = HALVES if len(ratios) <= MANY else HALVES[::2]  # uneven copies have no roots
    return [
        math.prod(ratio ** (half / 2) for ratio, half in zip(ratios, halves, strict=True))
        for halves in itertools.product(exponents, repeat=len(ratios))
    ]
