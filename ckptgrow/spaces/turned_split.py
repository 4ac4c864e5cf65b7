"""A split of a matrix as it is dealt out with the axes exchanged, for files that store it so.

The draws of `spaces.split` are counted by the matrix's own rows, of which every column takes one number each. So all of
them are drawn at once, a bit each, and kept until the last column is dealt: 1/32 of a matrix in float32.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from ckptgrow.spaces.split import Choices, Split

BITS = 8  # in a byte


class TurnedSplit:
    """See the module's head; `split` must be one with at most two copies (`Split.has_a_bit_each`) of a matrix."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self._bits: npt.NDArray[np.uint8] | None = None

    def deal(self, rows: torch.Tensor, start: int) -> None:
        """As `Split.deal`, with rows of `whole.turned`."""
        split, stop = self._split, start + len(rows)
        growth = split.growth
        if split.in_axis == 0:
            choices = self._choices(start, stop)
            for run in growth.runs:
                block = rows.narrow(1, run.start, run.stop - run.start)
                split.share(block, choices[:, run.source : run.source + run.stop - run.start], run)
        else:
            for run in growth.runs_between(start, stop):
                choices = self._choices(run.source, run.source + run.stop - run.start)
                split.share(rows[run.start - start : run.stop - start], choices, run)
        if stop == split.whole.shape[1]:
            self._bits = None

    def _choices(self, start: int, stop: int) -> Choices:
        """Which copy has each weight of columns [start, stop), shape (columns, rows)."""
        if self._bits is None:
            self._bits = self._split.bits()
        first = start // BITS
        drawn = np.unpackbits(self._bits[:, first : -(-stop // BITS)], axis=1)[:, start - first * BITS :]
        turned = np.ascontiguousarray(drawn[:, : stop - start].T)
        counts = self._split.old_counts > 1
        return turned * (counts if self._split.in_axis == 0 else counts[start:stop, None])
