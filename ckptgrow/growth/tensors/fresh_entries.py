"""Tensors with entries that copy nothing, filled so that the function stays the same and the new entries can learn.

    written as zero     rows of zeros; norm biases too
    written as mean     each row the mean of the old rows, so that a LayerNorm's mean stays and the row vanishes in it
    drawn               rows or columns at the root mean square of the old weight as it stands in the grown one: where
                        what it reads is written larger, both are smaller; biases are zero
    copied              rows or columns of old coordinates, each one's once, then drawn ones (`spaces.growth.padded`)
    gains               the mean of the old gains; what they multiply is zero at first

An entry in two new coordinates is zero where either is, else drawn where either is. Moments:

    first moments       zeros
    second moments      zeros, or the mean of the old ones in their row or column

Source: Wang et al., "LEMON: Lossless Model Expansion", arXiv 2310.07999, section 4 (the average before a LayerNorm).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch

from ckptgrow.errors import RequestError
from ckptgrow.growth.tensors.grown_tensors import root_mean_square
from ckptgrow.spaces.gather import Gather, GrownAxis, TensorGrowth
from ckptgrow.spaces.growth import BoolVector, Filling
from ckptgrow.spaces.noise import key_of, quick_draws
from ckptgrow.storage.tensors import LazyTensor, Made, chunks

NEVER_LEARNS = (
    "is zero, so new units that are written as zero would be read by zeros, and neither side would ever get a "
    "gradient; use ⟦fresh random-zero⟧"
)
SILENCED = (Filling("copied", "zero", "copied"), Filling("drawn", "zero", "drawn"))  # of units


def averaged(old: LazyTensor, gather: Gather) -> LazyTensor:
    """A grown record in which an entry that copies nothing is the mean of the old entries in its row.

    In new rows it is the mean of its column, and where both are new the mean of all. Computed in float64 and rounded
    once.
    """
    first = gather.axes[0].growth

    def filled_rows(start: int, stop: int) -> torch.Tensor:
        """The rows, filled along every axis but the first; rows that copy nothing are zeros still."""
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
    """A weight's growth by entries that copy nothing, rounded once at most; `name` decides what is drawn.

    Making rows raises RequestError where silenced units would be read by zeros: neither would ever get a gradient.
    """
    gather, offset, has_mean = growth.begun, growth.layout.offset, _mean_axis(growth)
    is_summed = offset != 0 or has_mean is not None  # in float64
    reads_silenced = any(axis.role == "in" and axis.growth.filling in SILENCED for axis in growth.axes)

    amplitude = cache(lambda: _size_of_draws(old, gather, name, reads_silenced=reads_silenced))

    def filled(start: int, stop: int) -> torch.Tensor:
        """All but the means."""
        if reads_silenced:
            amplitude()
        read = (lambda *some: old.rows(*some).double() + offset) if is_summed else old.rows
        found = gather.rows(read, start, stop)
        place = _drawn_entries(growth, start, stop)
        if growth.layout.kind != "matrix" or not bool(place.any()):
            return found
        drawn = torch.from_numpy(quick_draws(key_of(seed, name), gather.shape, start, stop)).mul_(amplitude())
        return torch.where(place, drawn.to(found.dtype), found)

    @cache
    def mean_of_rows() -> torch.Tensor:
        return _sum_of_rows(made, filled) / growth.axes[0].growth.num_old

    def rows(start: int, stop: int) -> torch.Tensor:
        exact = filled(start, stop)
        if not is_summed:
            return exact
        if has_mean is not None:
            grown = growth.axes[has_mean].growth
            mean = mean_of_rows() if has_mean == 0 else exact.sum(has_mean, keepdim=True) / grown.num_old
            exact = torch.where(_along(grown.is_fresh, growth.axes, has_mean, start, stop), mean, exact)
        return (exact - offset).to(old.dtype)

    made = Made(gather.shape, old.dtype, rows)
    return made


def _size_of_draws(old: LazyTensor, gather: Gather, name: str, *, reads_silenced: bool) -> float:
    """The root mean square of the old entries as they stand in the grown weight, all multiplied by one factor."""
    found = root_mean_square(old)
    if found == 0 and reads_silenced:
        raise RequestError(f"{name}: {NEVER_LEARNS}")
    pairs = zip(gather.axes, gather.scales, strict=True)
    kept = (scale[~axis.growth.is_fresh][:1] for axis, scale in pairs)
    return found * math.prod(float(one[0]) for one in kept if len(one))


def _mean_axis(growth: TensorGrowth) -> int | None:
    """The axis along which new rows are the mean of the old ones, which are zero before; None where there is none."""
    is_gain = growth.layout.kind == "gain"
    return next(
        (
            position
            for position, axis in enumerate(growth.axes)
            if axis.role == "out" and axis.growth.has_fresh and (axis.growth.filling.written == "mean" or is_gain)
        ),
        None,
    )


def _drawn_entries(growth: TensorGrowth, start: int, stop: int) -> torch.Tensor:
    """Where rows [start, stop) are drawn: in a row or a column that is, unless the other one is zero."""
    is_drawn = torch.zeros((1,) * len(growth.axes), dtype=torch.bool)
    is_zero = is_drawn
    for position, axis in enumerate(growth.axes):
        is_drawn = is_drawn | _along(axis.is_drawn, growth.axes, position, start, stop)
        is_zero = is_zero | _along(axis.is_zero, growth.axes, position, start, stop)
    return is_drawn & ~is_zero


def _sum_of_rows(like: LazyTensor, rows: Callable[[int, int], torch.Tensor]) -> torch.Tensor:
    """The sum over all rows, taken a few at a time as of the tensor `like`; shape (1, …)."""
    return sum((rows(*some).sum(0, keepdim=True) for some in chunks(like)), torch.zeros(()))


def fresh_along(axes: Sequence[GrownAxis], position: int, start: int, stop: int) -> torch.Tensor:
    """Which coordinates of one axis copy nothing, broadcastable over rows [start, stop)."""
    return _along(axes[position].growth.is_fresh, axes, position, start, stop)


def _along(marks: BoolVector, axes: Sequence[GrownAxis], position: int, start: int, stop: int) -> torch.Tensor:
    """Marks along one axis, broadcastable over rows [start, stop)."""
    shape = [1] * len(axes)
    shape[position] = -1
    return torch.from_numpy(marks[start:stop] if position == 0 else marks).reshape(shape)
