"""Matrices transposed on their way, a band of columns at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict

import torch

from ckptgrow.storage.tensors import LazyTensor, chunks

BAND_BYTES = 48 * 2**20  # as much of a transposed matrix as is kept at once


class Bands:
    """Bands of transposed matrices that were made last, together of a bounded size: whoever reads rows in their order
    reads each column of the matrix behind them once for every band.
    """

    def __init__(self, num_bytes: int = 2 * BAND_BYTES) -> None:
        self._num_bytes = num_bytes
        self._held: OrderedDict[int, tuple[int, torch.Tensor]] = OrderedDict()
        self._lock = threading.Lock()

    def rows(self, old: LazyTensor, start: int, stop: int) -> torch.Tensor:
        """Columns [start, stop) of a matrix as rows, contiguous."""
        with self._lock:
            first, band = self._held.get(id(old), (0, None))
        if band is None or not first <= start <= stop <= first + len(band):
            height, width = old.shape
            length = max(stop - start, BAND_BYTES // (old.dtype.itemsize * height))
            first, band = start, _columns(old, start, min(width, start + length))
            self._hold(id(old), first, band)
        return band[start - first : stop - first]

    def _hold(self, key: int, first: int, band: torch.Tensor) -> None:
        with self._lock:
            self._held[key] = (first, band)
            self._held.move_to_end(key)
            while len(self._held) > 1 and sum(one.nbytes for _, one in self._held.values()) > self._num_bytes:
                self._held.popitem(last=False)


class Transposed:
    """A matrix's columns as rows; `bands` keeps what was made of it last."""

    def __init__(self, old: LazyTensor, bands: Bands) -> None:
        self._old, self._bands = old, bands

    @property
    def shape(self) -> tuple[int, ...]:
        """See LazyTensor."""
        return (self._old.shape[1], self._old.shape[0])

    @property
    def dtype(self) -> torch.dtype:
        """See LazyTensor."""
        return self._old.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        return self._bands.rows(self._old, start, stop)


def _columns(old: LazyTensor, start: int, stop: int) -> torch.Tensor:
    """Columns [start, stop), transposed, shape (stop − start, rows of the matrix)."""
    made = torch.empty((stop - start, old.shape[0]), dtype=old.dtype)
    for first, last in chunks(old):
        made[:, first:last] = old.rows(first, last)[:, start:stop].t()
    return made
