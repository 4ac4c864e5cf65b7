"""Matrices transposed on their way, a band of columns at a time."""

from __future__ import annotations

import torch

from ckptgrow.storage.tensors import LazyTensor, Made, Repeated, chunks

BAND_BYTES = 24 * 2**20  # as much of a transposed matrix as is made at once
NUM_BANDS = 4  # in memory at most


def transposed(matrix: LazyTensor) -> LazyTensor:
    """A matrix with its axes exchanged. What was made of a transposed one by rules for either axis, as a grown moment
    is, is made of the first one anew, so that nothing is transposed twice.
    """
    if isinstance(matrix, Transposed):
        return matrix.old
    turned = matrix.turned if isinstance(matrix, Made | Repeated) else None
    return Transposed(matrix) if turned is None else turned()


class Transposed:
    """A matrix's columns as rows. Whoever reads them in their order reads the matrix once for every band of them; the
    last band is let go with its last row. A few bands are kept, for who reads some places in turn.
    """

    def __init__(self, old: LazyTensor) -> None:
        self.old = old
        self._bands: tuple[tuple[int, torch.Tensor], ...] = ()  # each with its first row, the last used one first

    @property
    def shape(self) -> tuple[int, ...]:
        """See LazyTensor."""
        return (self.old.shape[1], self.old.shape[0])

    @property
    def dtype(self) -> torch.dtype:
        """See LazyTensor."""
        return self.old.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor. Threads may read at once: all bands are exchanged together."""
        bands = self._bands
        held = next((one for one in bands if one[0] <= start <= stop <= one[0] + len(one[1])), None)
        if held is None:
            height, width = self.old.shape
            length = max(stop - start, BAND_BYTES // max(1, self.dtype.itemsize * height))
            bands = tuple(one for one in bands if one[0] + len(one[1]) != start)[: NUM_BANDS - 1]  # read to its end
            self._bands = bands
            held = start, _columns(self.old, start, min(width, start + length))
        others = tuple(one for one in bands if one is not held)
        self._bands = others if stop == self.shape[0] else (held, *others)[:NUM_BANDS]
        first, band = held
        return band[start - first : stop - first]


def _columns(old: LazyTensor, start: int, stop: int) -> torch.Tensor:
    """Columns [start, stop), transposed, shape (stop − start, rows of the matrix)."""
    made = torch.empty((stop - start, old.shape[0]), dtype=old.dtype)
    for first, last in chunks(old):
        made[:, first:last] = old.rows(first, last)[:, start:stop].t().contiguous()  # torch is quick into new memory
    return made
