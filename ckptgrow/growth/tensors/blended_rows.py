"""Tensors whose new rows are weighted means of old ones: those of new tokens, and of new positions.

    weights             the mean of the old rows that a new row is a blend of, in float64 and rounded once
    first moments       zero: the gradients of a head's rows sum to zero over the vocabulary, so that is their mean
    second moments      zero; or those of rare tokens, the median over the tenth of the old rows that has the least of
                        them, of rows that have seen a gradient; or blended as the weights are (stretched positions)

Old rows are the old bytes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from ckptgrow.growth.tensors.grown_tensors import gathered
from ckptgrow.spaces.gather import Gather
from ckptgrow.spaces.growth import Blends, IntVector
from ckptgrow.storage.tensors import CHUNK_BYTES, LazyTensor, Made, chunks, num_bytes

RAREST = 10  # the tenth part of the rows that have seen a gradient
BAND_BYTES = 24 * CHUNK_BYTES  # of rare rows, as many columns of them as are in memory at once
KEPT_BLENDS = 8  # of which the one of all rows is asked for again and again


def blended(old: LazyTensor, gather: Gather) -> LazyTensor:
    """A tensor whose fresh rows are the blends that its first axis names."""
    blends = gather.axes[0].blends
    if blends is None:  # a factor of a moment along its other axis
        return gathered(old, gather)

    @lru_cache(maxsize=KEPT_BLENDS)
    def row_of(number: int) -> torch.Tensor:
        return _mean_row(old, blends, number)

    def rows(start: int, stop: int) -> torch.Tensor:
        made = gather.rows(old.rows, start, stop)
        numbers = blends.number[start:stop]
        for number in np.unique(numbers[numbers >= 0]).tolist():
            made[torch.from_numpy(numbers == number)] = row_of(number).to(old.dtype)
        return made

    return Made(gather.shape, old.dtype, rows)


def with_rare_rows(old: LazyTensor, gather: Gather) -> LazyTensor:
    """A record of squared gradients whose fresh rows are what rare old rows have (see the module's head)."""
    if not gather.axes[0].growth.has_fresh:
        return gathered(old, gather)
    is_fresh = torch.from_numpy(gather.axes[0].growth.is_fresh)

    @lru_cache(maxsize=1)
    def rare() -> torch.Tensor:
        return _median_row(old, _rarest(old))

    def rows(start: int, stop: int) -> torch.Tensor:
        made = gather.rows(old.rows, start, stop)
        if bool(is_fresh[start:stop].any()):
            made[is_fresh[start:stop]] = rare().to(old.dtype)
        return made

    return Made(gather.shape, old.dtype, rows)


def _mean_row(old: LazyTensor, blends: Blends, number: int) -> torch.Tensor:
    """One blend, float64, in the shape of a row; a few rows are read at a time."""
    sources, weights = blends.sources[number], blends.weights[number]
    total = torch.zeros(old.shape[1:], dtype=torch.float64)
    most = max(1, CHUNK_BYTES * old.shape[0] // max(1, num_bytes(old)))
    edges = [*(np.flatnonzero(np.diff(sources) != 1) + 1).tolist(), len(sources)]
    start = 0
    for edge in edges:
        for first in range(start, edge, most):
            last = min(first + most, edge)
            part = old.rows(int(sources[first]), int(sources[last - 1]) + 1).double()
            total += torch.tensordot(torch.from_numpy(weights[first:last]), part, dims=1)
        start = edge
    return total


def _rarest(old: LazyTensor) -> IntVector:
    """The rows with the least mean, a tenth of those whose mean is not zero, in ascending order."""
    means = torch.cat(
        [old.rows(*some).double().reshape(some[1] - some[0], -1).mean(1) for some in chunks(old)] or [torch.zeros(0)]
    ).numpy()
    seen = np.flatnonzero(means > 0)
    ordered = seen[np.argsort(means[seen], kind="stable")]
    return np.sort(ordered[: -(-len(seen) // RAREST)])


def _median_row(old: LazyTensor, rows: IntVector) -> torch.Tensor:
    """The lower median of some rows, entry by entry, float64; zero where there are none."""
    length = int(np.prod(old.shape[1:], dtype=np.int64))
    if not len(rows):
        return torch.zeros(old.shape[1:], dtype=torch.float64)
    band = max(1, BAND_BYTES // (8 * len(rows)))
    found = torch.empty(length, dtype=torch.float64)
    for start in range(0, length, band):
        columns = [old.rows(row, row + 1).reshape(-1)[start : start + band].double() for row in rows.tolist()]
        found[start : start + band] = torch.stack(columns).median(0).values
    return found.reshape(old.shape[1:])
