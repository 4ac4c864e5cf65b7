"""The factors that growth can have put on a tensor: powers of the sizes' ratios, and one (write, read) for every space.

A measured factor is rounded where weights or gradients are; what it stands for is exact. With f = r^(j/2) the only
writes that a space of ratio r = n'/n can have, the factor of a weight f_out / f_in and that of a gradient b_out · f_in
are products of such powers. The nearest one is meant, if it is near; else the measured number stays, and fails.

All tensors that write or read a space must agree on its f: in logarithms these are linear equations,

    Σ log f over the spaces written − Σ log f over the spaces read = log(factor of the weight)

so a factor on one tensor and its inverse on another are seen although the function is the same. What a space is written
as, and so read as (Σ f · b = 1), says the factors of tensors too that show none themselves: weights that are zero, and
gradients that are nothing but rounding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from ckptgrow.spaces.growth import Growth
from ckptgrow.spaces.layout import Axis, Layout, Role

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


Factors = Mapping[str, float | None]  # of weights, by the grown name; None where the small weight is zero
Layouts = Mapping[str, Layout]  # the same parameters'


def with_tied_head(
    factors: Factors, layouts: Layouts, growths: Mapping[str, Growth], tie: tuple[str, Layout] | None
) -> tuple[Factors, Layouts]:
    """The same with a head that is the embedding's very tensor (`tie`: the embedding's name, the head's layout): as the
    head it reads what the embedding wrote, so its factor is the embedding's, summed over the copies that it reads.
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
    """The tensors whose weight's factor no one write for every space explains; the worst first, none where all agree.

    Coordinates that copy nothing make the old ones larger through a norm across them: over n' for n in the `normed`
    spaces, whose gains make up for it by √(n/n'); of other norms the factor is not known, but one.
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
    """The logarithm of what a gain makes up for."""
    if layout.kind != "gain":
        return 0.0
    fresh = [growths[space] for space in layout.written if space in normed and growths[space].has_fresh]
    return sum(math.log(growth.num_old / growth.num_new) / 2 for growth in fresh)


def measured_growths(factors: Factors, layouts: Layouts, growths: Mapping[str, Growth]) -> dict[str, Growth]:
    """The growth of every space, with what its copies are written and read as: the power of their number on which the
    tensors agree most. Uneven copies, and spaces with coordinates that copy nothing, are written as they were.
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
    """f_out / f_in of a weight summed over the copies of its inputs; None where it is not one number."""
    vectors = [1 / one.write if role == "in" else one.write for role, one in _axes(layout, growths)]
    return math.prod(float(vector[0]) for vector in vectors) if all(np.ptp(one) == 0 for one in vectors) else None


def gradient_factor(layout: Layout, growths: Mapping[str, Growth]) -> torch.Tensor:
    """b_out · f_in of every entry of a gradient, float64."""
    result = torch.ones((), dtype=torch.float64)
    for role, growth in _axes(layout, growths):
        result = result.unsqueeze(-1) * torch.from_numpy(growth.write if role == "in" else growth.read)
    return result


def _axes(layout: Layout, growths: Mapping[str, Growth]) -> list[tuple[Role, Growth]]:
    return [(axis.role, axis.growth(growths)) for axis in layout.axes]


def _even_copies(growth: Growth) -> int:
    """How many copies each coordinate has; 1 where that differs."""
    counts = set(growth.num_copies.tolist())
    return counts.pop() if len(counts) == 1 and not growth.has_fresh else 1


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


def _of_norms(layout: Layout, spaces: Sequence[str]) -> list[float]:
    """The coefficients of what the gains of each space make up for."""
    return [float(layout.kind == "gain" and space in layout.written) for space in spaces]


def _products(ratios: tuple[float, ...]) -> list[float]:
    exponents = HALVES if len(ratios) <= MANY else HALVES[::2]  # uneven copies have no roots
    return [
        math.prod(ratio ** (half / 2) for ratio, half in zip(ratios, halves, strict=True))
        for halves in itertools.product(exponents, repeat=len(ratios))
    ]
