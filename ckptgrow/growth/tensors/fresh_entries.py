"""Tensors with entries that copy nothing, filled so that the function stays the same and the new entries can learn.

    written as zero     rows of zeros; norm biases too
    written as mean     each row the mean of the old rows, so that a LayerNorm's mean stays and the row vanishes in it
    written as drawn    rows drawn at the old weight's root mean square, read by columns of zeros
    gains               the mean of the old gains; what they multiply is zero at first
    second moments      zeros, or the mean of the old ones in their row or column

Source: Wang et al., "LEMON: Lossless Model Expansion", arXiv 2310.07999, section 4 (the average before a LayerNorm).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch

from ckptgrow.growth.tensors.grown_tensors import root_mean_square
from ckptgrow.spaces.gather import Gather, GrownAxis, TensorGrowth, tile
from ckptgrow.spaces.noise import key_of, uniform_draws
from ckptgrow.storage.tensors import LazyTensor, Made, chunks


def averaged(old: LazyTensor, gather: Gather) -> LazyTensor:
    """A record's growth whose entries that copy nothing are the mean of the old ones in their row, else their column;
    where both are new, the mean of all. Computed in float64 and rounded once.
    """
    first = gather.axes[0].growth

    def filled_rows(start: int, stop: int) -> torch.Tensor:
        """Old rows filled along every other axis; new rows are zeros still."""
        filled = gather.rows(lambda *old_rows: old.rows(*old_rows).double(), start, stop)
        for position, axis in enumerate(gather.axes[1:], start=1):
            if axis.growth.has_fresh:
                mean = filled.sum(position, keepdim=True) / int((~axis.growth.is_fresh).sum())
                filled = torch.where(fresh_along(gather.axes, position, start, stop), mean, filled)
        return filled

    @cache
    def mean_of_rows() -> torch.Tensor:
        return _sum_of_rows(made, filled_rows) / int((~first.is_fresh).sum())

    def rows(start: int, stop: int) -> torch.Tensor:
        filled = filled_rows(start, stop)
        if first.has_fresh:
            filled = torch.where(fresh_along(gather.axes, 0, start, stop), mean_of_rows(), filled)
        return filled.to(old.dtype)

    made = Made(gather.shape, old.dtype, rows)
    return made


def padded(old: LazyTensor, growth: TensorGrowth, seed: int, name: str) -> LazyTensor:
    """A weight's growth by entries that copy nothing (see the module's head); `name` decides what is drawn. Computed in
    float64 and rounded once.
    """
    gather, offset = growth.weight(tile), growth.layout.offset

    def copied(start: int, stop: int) -> torch.Tensor:
        return gather.rows(lambda *old_rows: old.rows(*old_rows).double() + offset, start, stop)

    @cache
    def mean_of_rows() -> torch.Tensor:
        return _sum_of_rows(made, copied) / growth.axes[0].growth.num_old

    @cache
    def amplitude() -> float:
        return root_mean_square(old)

    def rows(start: int, stop: int) -> torch.Tensor:
        exact = copied(start, stop)
        place = _drawn_entries(growth, start, stop).expand(exact.shape)
        if growth.layout.kind == "matrix" and bool(place.any()):
            drawn = torch.from_numpy(uniform_draws(key_of(seed, name), gather.shape, start, stop))
            exact[place] = amplitude() * drawn[place]
        for position, axis in enumerate(growth.axes):
            is_mean = axis.growth.written == "mean" or growth.layout.kind == "gain"
            if axis.role == "out" and axis.growth.has_fresh and is_mean:
                mean = mean_of_rows() if position == 0 else exact.sum(position, keepdim=True) / axis.growth.num_old
                exact = torch.where(fresh_along(growth.axes, position, start, stop), mean, exact)
        return (exact - offset).to(old.dtype)

    made = Made(gather.shape, old.dtype, rows)
    return made


def _drawn_entries(growth: TensorGrowth, start: int, stop: int) -> torch.Tensor:
    """Where rows [start, stop) are drawn: in a row or a column that is, unless the other one is zero (a mean is taken
    of what was copied).
    """
    is_drawn = torch.zeros((1,) * len(growth.axes), dtype=torch.bool)
    is_zero = is_drawn
    for position, axis in enumerate(growth.axes):
        fresh = fresh_along(growth.axes, position, start, stop)
        draws_it = axis.growth.read_drawn if axis.role == "in" else axis.growth.written == "drawn"
        is_drawn, is_zero = (is_drawn | fresh, is_zero) if draws_it else (is_drawn, is_zero | fresh)
    return is_drawn & ~is_zero


def _sum_of_rows(like: LazyTensor, rows: Callable[[int, int], torch.Tensor]) -> torch.Tensor:
    """The sum over all rows of a tensor like another, a few at a time, shape (1, …)."""
    return sum((rows(*some).sum(0, keepdim=True) for some in chunks(like)), torch.zeros(()))


def fresh_along(axes: Sequence[GrownAxis], position: int, start: int, stop: int) -> torch.Tensor:
    """Which coordinates of one axis copy nothing, broadcastable over rows [start, stop)."""
    fresh = torch.from_numpy(axes[position].growth.is_fresh)
    shape = [1] * len(axes)
    shape[position] = -1
    return (fresh[start:stop] if position == 0 else fresh).reshape(shape)
