"""Tensors as runs of elements of other tensors: parts of flat buffers as matrices, and matrices as parts of buffers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod

import torch

from ckptgrow.storage.tensors import LazyTensor, Made, Stored, num_elements


@dataclass(frozen=True)
class Span:
    """Elements [start, start + length) of a tensor, counted row after row; zeros where there is no tensor."""

    tensor: LazyTensor | None
    start: int
    length: int

    def read(self, start: int, stop: int) -> torch.Tensor | None:
        """Elements [start, stop) of the run, shape (stop − start,); None for zeros."""
        return None if self.tensor is None else _elements(self.tensor, self.start + start, self.start + stop)


def of_runs(runs: Sequence[Span], shape: tuple[int, ...], dtype: torch.dtype) -> LazyTensor:
    """The tensor of a shape whose elements are those of some runs, one run after the other.

    Example: a matrix of which one process has the first seven elements, and another one the rest.
    """
    runs = [run for run in runs if run.length]
    if len(runs) == 1 and shape:
        (run,) = runs
        if isinstance(run.tensor, Stored) and len(run.tensor.shape) == 1 and run.tensor.stride == (1,):
            return _stored_in(run.tensor, run.start, shape)
    ends = list(accumulate(run.length for run in runs))
    row = prod(shape[1:])

    def rows(start: int, stop: int) -> torch.Tensor:
        first, last = (start * row, stop * row) if shape else (0, 1)
        made = torch.zeros(last - first, dtype=dtype)
        for index in range(bisect_right(ends, first), len(runs)):
            begin = ends[index] - runs[index].length
            if begin >= last:
                break
            low, high = max(first, begin), min(last, ends[index])
            found = runs[index].read(low - begin, high - begin)
            if found is not None:
                made[low - first : high - first] = found
        return made.reshape((stop - start, *shape[1:]) if shape else ())

    return Made(shape, dtype, rows)


def _stored_in(flat: Stored, start: int, shape: tuple[int, ...]) -> Stored:
    stride = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return replace(flat, offset=flat.offset + start * flat.dtype.itemsize, shape=shape, stride=stride)


def _elements(tensor: LazyTensor, start: int, stop: int) -> torch.Tensor:
    """Elements [start, stop) of a tensor; only the rows that they lie in are read."""
    if not tensor.shape:
        return tensor.rows(0, 1).reshape(1)
    row = num_elements(tensor) // tensor.shape[0]
    first = start // row
    return tensor.rows(first, -(-stop // row)).reshape(-1)[start - first * row : stop - first * row]
