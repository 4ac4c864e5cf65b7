"""The factors by which a growth can have multiplied a tensor: powers of the sizes' ratios, consistent in every space.

A measured factor has rounding errors, as weights and gradients have; the factor that was meant is exact. Let f and b be
the factors with which the copies of a space are written and read. A space whose size grew by the ratio r = n'/n can
only be written with f = r^(j/2) for a small whole number j. So the factor of a weight, f_out / f_in, and that of a
gradient, b_out · f_in, are products of such powers. The nearest product is taken, if it is near; otherwise the
measured number stays, and verification fails on it.

All tensors that write or read a space must agree on its f. In logarithms these are linear equations:

    Σ log f over the spaces written − Σ log f over the spaces read = log(factor of the weight)

A factor on one tensor and its inverse on another contradict them, although the function is the same. Once f is known,
and with it b (by Σ f · b = 1 over the copies), so are the factors of tensors that show none themselves: weights that
are zero, and gradients that are nothing but rounding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from ckptgrow.spaces.growth import Growth, IntVector
from ckptgrow.spaces.layout import Axis, Layout, Role

HALVES = (-2, -1, 0, 1, 2)  # exponents of a ratio, in halves
NEAR = 0.02  # relative: far above what rounding to bfloat16 leaves in a mean, far below any two factors' distance
SAME = 1e-6
MANY = 4


def snapped(value: float, ratios: Iterable[float]) -> float:
    """The product of powers r^(j/2) of the ratios that is nearest to a measured factor; the value itself if none is."""
    if not math.isfinite(value) or value == 0:
        return value
    nearest = min(_products(tuple(sorted(set(ratios) - {1.0}))), key=lambda one: abs(one - abs(value)))
    return math.copysign(nearest, value) if abs(nearest - abs(value)) <= NEAR * nearest else value


Factors = Mapping[str, float | None]  # of weights, by the grown name; None where the small weight is zero
Layouts = Mapping[str, Layout]  # the same parameters'


def with_tied_head(
    factors: Factors, layouts: Layouts, growths: Mapping[str, Growth], tie: tuple[str, Layout] | None
) -> tuple[Factors, Layouts]:
    """The factors and layouts with one more entry for a head that is the same tensor as the embedding.

    `tie`: the embedding's name and the head's layout. The head reads what the embedding wrote, so its factor is the
    embedding's, summed over the copies that it reads.
    """
    factor = factors.get(tie[0]) if tie else None
    if not factor or tie is None:
        return factors, layouts
    axes = [axis.growth(growths) for axis in tie[1].axes if axis.role == "in"]
    if any(_even_copies(axis) == 1 and not axis.is_identity and not axis.has_fresh for axis in axes):
        return factors, layouts
    name = f"{tie[0]} as the head"
    summed = factor * math.prod(_even_copies(axis) for axis in axes)
    return {**factors, name: summed}, {**layouts, name: tie[1]}


def disagreements(
    factors: Factors, layouts: Layouts, growths: Mapping[str, Growth], normed: Collection[str]
) -> list[str]:
    """The names of the weights whose factors fit no single f of every space, the worst first; empty where all fit.

    A norm divides by the size n' of its space. Where new coordinates copy nothing, n' instead of n makes the old ones
    larger, and gains make up for this: by √(n/n') in the `normed` spaces, in others by a factor that is not known but
    is the same in all gains of a space.
    """
    known = [name for name, factor in factors.items() if factor]
    spaces = sorted(space for space, growth in growths.items() if not growth.is_identity)
    if not known or not spaces:
        return [name for name in known if abs((factors[name] or 0.0) - 1) > SAME]
    logarithms = np.array([math.log(abs(factors[name] or 1.0)) for name in known])
    logarithms -= [_norms_logarithm(layouts[name], growths, normed) for name in known]
    others = [space for space in spaces if growths[space].has_fresh and space not in normed]
    equations = [_equation(layouts[name].axes, spaces) + _of_norms(layouts[name], others) for name in known]
    matrix = np.array(equations)
    residuals = np.abs(matrix @ _most_agreed(matrix, logarithms) - logarithms)
    order = np.argsort(-residuals)
    return [known[index] for index in order if residuals[index] > SAME]


def _norms_logarithm(layout: Layout, growths: Mapping[str, Growth], normed: Collection[str]) -> float:
    """The logarithm of the factor by which a gain makes up for a larger norm; 0 for other tensors."""
    if layout.kind != "gain":
        return 0.0
    fresh = [growths[space] for space in layout.written if space in normed and growths[space].has_fresh]
    return sum(math.log(growth.num_old / growth.num_new) / 2 for growth in fresh)


def measured_growths(factors: Factors, layouts: Layouts, growths: Mapping[str, Growth]) -> dict[str, Growth]:
    """The growth of every space, with the factors f and b on which most tensors agree.

    f is a power of the number of copies. Spaces with uneven copies, or with coordinates that copy nothing, stay as they
    are given.
    """
    known = [name for name, factor in factors.items() if factor]
    counts = {space: _even_copies(growth) for space, growth in growths.items()}
    spaces = [space for space, count in counts.items() if count > 1]
    if not known or not spaces:
        return dict(growths)
    matrix = np.array([_equation(layouts[name].axes, spaces) for name in known])
    solution = _most_agreed(matrix, np.array([math.log(abs(factors[name] or 1.0)) for name in known]))
    found = dict(growths)
    for space, logarithm in zip(spaces, solution.tolist(), strict=True):
        half = min(HALVES, key=lambda one: abs(one / 2 * math.log(counts[space]) - logarithm))
        write = counts[space] ** (half / 2)
        growth = growths[space]
        found[space] = replace(
            growth, write=growth.write * write, read=growth.read / write, squared=growth.read_squared / write**2
        )
    return found


def weight_factor(layout: Layout, growths: Mapping[str, Growth]) -> float | None:
    """The factor f_out / f_in of a weight that is summed over its inputs' copies; None where it is not one number."""
    vectors = [1 / one.write if role == "in" else one.write for role, one in _axes(layout, growths)]
    return math.prod(float(vector[0]) for vector in vectors) if all(np.ptp(one) == 0 for one in vectors) else None


def gradient_factors(layout: Layout, growths: Mapping[str, Growth], coordinates: Sequence[IntVector]) -> torch.Tensor:
    """The factors b_out · f_in of a gradient's entries at some coordinates along each axis, float64, one axis each."""
    result = torch.ones((), dtype=torch.float64)
    for (role, growth), places in zip(_axes(layout, growths), coordinates, strict=True):
        result = result.unsqueeze(-1) * torch.from_numpy((growth.write if role == "in" else growth.read)[places])
    return result


def _axes(layout: Layout, growths: Mapping[str, Growth]) -> list[tuple[Role, Growth]]:
    return [(axis.role, axis.growth(growths)) for axis in layout.axes]


def _even_copies(growth: Growth) -> int:
    """The number of copies that each coordinate has; 1 where coordinates have different numbers of them."""
    counts = set(growth.num_copies.tolist())
    return counts.pop() if len(counts) == 1 and not growth.has_fresh else 1


def _most_agreed(matrix: np.ndarray, logarithms: np.ndarray) -> np.ndarray:
    """The solution with the least sum of absolute residuals, so that a few wrong tensors do not change it.

    Found by iteratively reweighted least squares.
    """
    weights = np.ones(len(logarithms))
    solution = np.zeros(matrix.shape[1])
    for _ in range(30):
        solution = np.linalg.lstsq(matrix * weights[:, None], logarithms * weights, rcond=None)[0]
        weights = 1 / np.sqrt(np.maximum(np.abs(matrix @ solution - logarithms), 1e-9))
    return solution


def _equation(axes: Sequence[Axis], spaces: Sequence[str]) -> list[float]:
    """The coefficients of log f of each space: +1 where the tensor writes it, −1 where it reads it.

    Where an axis has several parts, their mean.
    """
    row = dict.fromkeys(spaces, 0.0)
    for axis in axes:
        sign = {"out": 1.0, "in": -1.0}.get(axis.role, 0.0)
        for part in axis.parts:
            for factor in part:
                if factor in row:
                    row[str(factor)] += sign / len(axis.parts)
    return list(row.values())


def _of_norms(layout: Layout, spaces: Sequence[str]) -> list[float]:
    """The coefficients of the unknown factors of gains: 1 for a gain of the space, else 0."""
    return [float(layout.kind == "gain" and space in layout.written) for space in spaces]


def _products(ratios: tuple[float, ...]) -> list[float]:
    exponents = HALVES if len(ratios) <= MANY else HALVES[::2]  # uneven copies have no roots
    return [
        math.prod(ratio ** (half / 2) for ratio, half in zip(ratios, halves, strict=True))
        for halves in itertools.product(exponents, repeat=len(ratios))
    ]
