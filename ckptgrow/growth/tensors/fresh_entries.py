"""Tensors with entries that copy nothing, filled so that the function stays the same and the new entries can learn.

    written as zero     rows of zeros; norm biases too
    written as mean     each row the mean of the old rows, so that a LayerNorm's mean stays and the row vanishes in it
    written as drawn    rows drawn at the old weight's root mean square, read by columns of zeros
    gains               the mean of the old gains; what they multiply is zero at first
    second moments      zeros, or the mean of the old ones in their row or column

Source: Wang et al., "LEMON: Lossless Model Expansion", arXiv 2310.07999, section 4 (the average before a LayerNorm).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from ckptgrow.growth.tensors.grown_tensors import root_mean_square
from ckptgrow.spaces.gather import Gather, GrownAxis, TensorGrowth, tile
from ckptgrow.spaces.noise import key_of, uniform_draws
from ckptgrow.storage.tensors import LazyTensor, chunks


@dataclass(frozen=True, eq=False)
class Averaged:
    """A record's growth whose entries that copy nothing are the mean of the old ones in their row, else their column;
    where both are new, the mean of all. Computed in float64 and rounded once.
    """

    old: LazyTensor
    gather: Gather

    @property
    def shape(self) -> tuple[int, ...]:
        """See LazyTensor."""
        return self.gather.shape

    @property
    def dtype(self) -> torch.dtype:
        """See LazyTensor."""
        return self.old.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        filled = self._filled_rows(start, stop)
        if self.gather.axes[0].growth.has_fresh:
            filled = torch.where(fresh_along(self.gather.axes, 0, start, stop), self._mean_of_rows, filled)
        return filled.to(self.dtype)

    def _filled_rows(self, start: int, stop: int) -> torch.Tensor:
        """Old rows filled along every other axis; new rows are zeros still."""
        filled = self.gather.rows(lambda first, last: self.old.rows(first, last).double(), start, stop)
        for position, axis in enumerate(self.gather.axes[1:], start=1):
            if axis.growth.has_fresh:
                mean = filled.sum(position, keepdim=True) / int((~axis.growth.is_fresh).sum())
                filled = torch.where(fresh_along(self.gather.axes, position, start, stop), mean, filled)
        return filled

    @cached_property
    def _mean_of_rows(self) -> torch.Tensor:
        total = sum((self._filled_rows(*rows).sum(0, keepdim=True) for rows in chunks(self)), torch.zeros(()))
        return total / int((~self.gather.axes[0].growth.is_fresh).sum())


@dataclass(frozen=True, eq=False)
class Padded:
    """See the module's head; computed in float64 and rounded once."""

    old: LazyTensor
    growth: TensorGrowth
    seed: int
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """See LazyTensor."""
        return self._gather.shape

    @property
    def dtype(self) -> torch.dtype:
        """See LazyTensor."""
        return self.old.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        exact = self._copied(start, stop)
        if self.growth.layout.kind == "matrix":
            self._draw_into(exact, start, stop)
        for position, axis in enumerate(self.growth.axes):
            growth = axis.growth
            is_mean = growth.written == "mean" or self.growth.layout.kind == "gain"
            if axis.role == "out" and growth.has_fresh and is_mean:
                fresh = fresh_along(self.growth.axes, position, start, stop)
                mean = self._mean_of_rows if position == 0 else exact.sum(position, keepdim=True) / growth.num_old
                exact = torch.where(fresh, mean, exact)
        return (exact - self.growth.layout.offset).to(self.dtype)

    def _copied(self, start: int, stop: int) -> torch.Tensor:
        offset = self.growth.layout.offset
        return self._gather.rows(lambda first, last: self.old.rows(first, last).double() + offset, start, stop)

    def _draw_into(self, exact: torch.Tensor, start: int, stop: int) -> None:
        """Drawn where a row or a column is, unless the other one is zero (a mean is taken of what was copied)."""
        is_drawn = torch.zeros((1,) * exact.dim(), dtype=torch.bool)
        is_zero = is_drawn
        for position, axis in enumerate(self.growth.axes):
            growth = axis.growth
            fresh = fresh_along(self.growth.axes, position, start, stop)
            draws_it = growth.read_drawn if axis.role == "in" else growth.written == "drawn"
            is_drawn, is_zero = (is_drawn | fresh, is_zero) if draws_it else (is_drawn, is_zero | fresh)
        where = (is_drawn & ~is_zero).expand(exact.shape)
        if bool(where.any()):
            drawn = torch.from_numpy(uniform_draws(key_of(self.seed, self.name), self.shape, start, stop))
            exact[where] = self._amplitude * drawn[where]

    @cached_property
    def _gather(self) -> Gather:
        return self.growth.weight(tile)

    @cached_property
    def _amplitude(self) -> float:
        return root_mean_square(self.old)

    @cached_property
    def _mean_of_rows(self) -> torch.Tensor:
        """The mean of the copied rows, shape (1, …)."""
        total = sum((self._copied(*rows).sum(0, keepdim=True) for rows in chunks(self)), torch.zeros(()))
        return total / self.growth.axes[0].growth.num_old


def fresh_along(axes: Sequence[GrownAxis], position: int, start: int, stop: int) -> torch.Tensor:
    """Which coordinates of one axis copy nothing, broadcastable over rows [start, stop)."""
    fresh = torch.from_numpy(axes[position].growth.is_fresh)
    shape = [1] * len(axes)
    shape[position] = -1
    return (fresh[start:stop] if position == 0 else fresh).reshape(shape)
