"""Preconditioners grow with the gradient whose products they average: SOAP's matrices, their bases, and what is kept in
these.

Along axis a the grown gradient is G' = P_a G, P_a = diag(s) · E, with E the copies and s the gradient's factors. Where
every old coordinate has the same Σ s² over its copies, c_a, PᵀP = c_a · 1 and

    products     (G Gᵀ)'_a = Π_{b ≠ a} c_b · P_a (G Gᵀ)_a P_aᵀ
    basis        Q'_a = [P_a Q_a / √c_a, any orthonormal complement], whose eigenvalues are 0
    squares in   v' = Π_a c_a · v in the old block, 0 outside; along an axis without basis by the squares of s
    the basis

Elsewhere copies have other sizes than their products know, and growth is refused.

Source: derived here; Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", arXiv 2409.11321, algorithm 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ckptgrow.errors import OptimizerError
from ckptgrow.growth.tensors.grown_tensors import gathered
from ckptgrow.spaces.gather import Gather, GrownAxis
from ckptgrow.spaces.growth import FRESH, FloatVector, Growth, IntVector, identity
from ckptgrow.storage.tensors import LazyTensor, Made, is_lazy

WAY_OUT = "leave the optimizer out with ⟦reset optimizer⟧"
LIMITS = ("max_precondition_dim", "max_precond_dim")  # the largest axis with a basis
UNEVEN = 1e-12  # relative, of sums of squares that are computed alike


def grown_products(products: Sequence[Any], gradient: Gather) -> list[Any]:
    """Averages of G Gᵀ, one an axis; an axis without one has an empty list.

    Raises OptimizerError where copies are uneven.
    """
    shares = [_share(axis, scale) for axis, scale in _axes(gradient)]
    grown: list[Any] = []
    for place, matrix in enumerate(products):
        if not is_lazy(matrix):
            grown.append(matrix)
            continue
        axis, scale = gradient.axes[place], gradient.scales[place]
        others = math.prod(shares[:place] + shares[place + 1 :])
        grown.append(gathered(matrix, Gather((axis, axis), (scale * others, scale))))
    return grown


def grown_bases(bases: Sequence[Any], gradient: Gather) -> list[Any]:
    """Orthonormal bases, one an axis, as columns; raises OptimizerError where copies are uneven."""
    both = zip(bases, gradient.axes, gradient.scales, strict=True)
    return [_basis(matrix, axis, scale) if is_lazy(matrix) else matrix for matrix, axis, scale in both]


def squares_in(bases: Sequence[Any], squares: LazyTensor, gradient: Gather) -> LazyTensor:
    """Averages of squares in the bases; raises OptimizerError where copies are uneven."""
    axes: list[GrownAxis] = []
    scales: list[FloatVector] = []
    for matrix, axis, scale in zip(bases, gradient.axes, gradient.scales, strict=True):
        share = _share(axis, scale)
        if not is_lazy(matrix):
            axes.append(axis)
            scales.append(scale**2)
            continue
        size, new = axis.growth.num_old, axis.growth.num_new
        source = np.concatenate([np.arange(size), np.full(new - size, FRESH)])
        axes.append(GrownAxis("batch", Growth(source=source, write=np.ones(new), read=np.ones(new), num_old=size)))
        scales.append(np.full(new, share))
    return gathered(squares, Gather(tuple(axes), tuple(scales)))


def check_bases(name: str, options: Mapping[str, Any], record: Mapping[str, Any], gradient: Gather) -> None:
    """Raises OptimizerError where an optimizer would take other axes for those with a basis in the grown tensor."""
    if options.get("merge_dims"):
        raise OptimizerError(
            f"{name} has its axes merged (merge_dims), so its bases know nothing of copies along each, expected "
            f"merge_dims=False; {WAY_OUT}"
        )
    limit = next((options[key] for key in LIMITS if key in options), math.inf)
    for matrix, size in zip(record.get("Q") or (), gradient.shape, strict=False):
        if is_lazy(matrix) and size > limit:
            raise OptimizerError(
                f"{name} grows to {size} along an axis, above the {limit} up to which the optimizer keeps a basis, "
                f"expected smaller sizes; {WAY_OUT}"
            )


def _axes(gradient: Gather) -> list[tuple[GrownAxis, FloatVector]]:
    return list(zip(gradient.axes, gradient.scales, strict=True))


def _share(axis: GrownAxis, scale: FloatVector) -> float:
    """Σ s² over the copies of an old coordinate; raises OptimizerError where it is not the same for all."""
    is_copy = ~axis.growth.is_fresh
    sums = np.bincount(axis.growth.source[is_copy], scale[is_copy] ** 2, axis.growth.num_old)
    if sums.size and np.ptp(sums) > UNEVEN * sums.max():
        raise OptimizerError(
            "its preconditioners have no exact growth by uneven copies, expected whole multiples of the old sizes; "
            + WAY_OUT
        )
    return float(sums[0]) if sums.size else 1.0


def _basis(old: LazyTensor, axis: GrownAxis, scale: FloatVector) -> LazyTensor:
    """The old basis spread over the copies, and behind it an orthonormal complement: in each coordinate's copies the
    columns of a reflection that turns the first unit vector into their factors.
    """
    growth = axis.growth
    size, new = growth.num_old, growth.num_new
    columns = identity(size)
    spread = gathered(
        old,
        Gather((axis, GrownAxis("batch", columns)), (scale / math.sqrt(_share(axis, scale)), np.ones(size))),
    )
    members = _members(growth)
    first = np.cumsum([0, *(len(one) - 1 for one in members)]) + size  # the first column of each coordinate's own

    def rows(start: int, stop: int) -> torch.Tensor:
        made = torch.zeros(stop - start, new, dtype=torch.float64)
        made[:, :size] = spread.rows(start, stop).double()
        for row in range(start, stop):
            source = int(growth.source[row])
            if source == FRESH:
                made[row - start, first[-1] + int(growth.is_fresh[:row].sum())] = 1.0
                continue
            copies = members[source]
            place = int(np.searchsorted(copies, row))
            own = int(first[source])
            made[row - start, own : own + len(copies) - 1] = torch.from_numpy(_reflection(scale[copies])[place, 1:])
        return made.to(old.dtype)

    return Made((new, new), old.dtype, rows)


def _members(growth: Growth) -> list[IntVector]:
    """The copies of each old coordinate, ascending."""
    order = np.argsort(growth.source, kind="stable")
    order = order[growth.source[order] != FRESH]
    return np.split(order, np.cumsum(np.bincount(growth.source[order], minlength=growth.num_old))[:-1])


def _reflection(factors: FloatVector) -> FloatVector:
    """An orthogonal matrix whose first column is parallel to the factors (Householder)."""
    unit = factors / np.linalg.norm(factors)
    turned = unit.copy()
    turned[0] -= 1.0
    length = float(turned @ turned)
    return np.eye(len(unit)) - (2 / length) * np.outer(turned, turned) if length > 0 else np.eye(len(unit))
