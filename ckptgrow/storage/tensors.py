"""Lazy tensors: tensors of any origin that are read a few rows at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeGuard, runtime_checkable

import numpy as np
import torch

from ckptgrow.addresses.stand_ins import read_range
from ckptgrow.errors import CheckpointError

CHUNK_BYTES = 2 * 2**20  # as much of a tensor as is in memory at once


class LazyTensor(Protocol):
    """A tensor by shape and dtype, whose rows (along axis 0; a scalar is one row) are made when asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The tensor's dtype."""
        ...

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop), contiguous, shape (stop − start, *shape[1:]); for a scalar shape ()."""
        ...


@dataclass(frozen=True, eq=False)
class Made:
    """A tensor by the function that makes its rows; `turned` gives a matrix with its axes exchanged, where that can be
    made otherwise than from these rows.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[int, int], torch.Tensor]
    turned: Callable[[], LazyTensor] | None = None

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        return self.make(start, stop)


def is_lazy(value: object) -> TypeGuard[LazyTensor]:
    """Whether a value of a tree is a lazy tensor: nothing else in one has rows. The class alone is asked, for torch's
    storages warn when they are asked for attributes.

    `isinstance` with a protocol that has properties looks all its members up for each value: 17 µs in Python 3.10 and
    3.11, of which a checkpoint of a hundred tensors needs thousands.
    """
    return hasattr(type(value), "rows")


def num_elements(tensor: LazyTensor) -> int:
    """The number of elements of a tensor."""
    return math.prod(tensor.shape)


def num_bytes(tensor: LazyTensor) -> int:
    """The number of bytes of a tensor's elements."""
    return num_elements(tensor) * tensor.dtype.itemsize


def chunks(tensor: LazyTensor, chunk_bytes: int | None = None) -> Iterator[tuple[int, int]]:
    """Row ranges that cover a tensor, of at most `chunk_bytes` (CHUNK_BYTES) each where a row is not longer itself."""
    num_rows = tensor.shape[0] if tensor.shape else 1
    if num_bytes(tensor) == 0:
        return
    step = max(1, (chunk_bytes or CHUNK_BYTES) * num_rows // num_bytes(tensor))
    for start in range(0, num_rows, step):
        yield start, min(start + step, num_rows)


def whole(tensor: LazyTensor) -> torch.Tensor:
    """The whole tensor, read into memory."""
    if num_elements(tensor) == 0:
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    return tensor.rows(0, tensor.shape[0] if tensor.shape else 1)


def cast(tensor: LazyTensor, dtype: torch.dtype) -> LazyTensor:
    """A tensor in another dtype, rounded to the nearest of its numbers."""
    return Made(tensor.shape, dtype, lambda start, stop: tensor.rows(start, stop).to(dtype))


@runtime_checkable
class _Merging(Protocol):
    def merged(self) -> LazyTensor: ...


def merged(tensor: LazyTensor) -> LazyTensor:
    """The tensor with its first two axes as one, of whose rows a few can be read where the first axis has large ones.

    Tensors that cannot say how they are read so (`merged`) are read by whole rows of the first axis.
    """
    if isinstance(tensor, _Merging):
        return tensor.merged()
    width = tensor.shape[1]

    def rows(start: int, stop: int) -> torch.Tensor:
        first, last = start // width, -(-stop // width)
        return tensor.rows(first, last).flatten(0, 1)[start - first * width : stop - first * width].contiguous()

    return Made((tensor.shape[0] * width, *tensor.shape[2:]), tensor.dtype, rows)


def flattened(tensor: LazyTensor) -> LazyTensor:
    """The tensor's numbers as one vector, row after row."""
    length = math.prod(tensor.shape[1:])

    def rows(start: int, stop: int) -> torch.Tensor:
        first = start // max(1, length)
        part = tensor.rows(first, -(-stop // max(1, length))).reshape(-1)
        return part[start - first * length : stop - first * length].clone()

    return Made((num_elements(tensor),), tensor.dtype, rows)


def unflattened(vector: LazyTensor, shape: tuple[int, ...]) -> LazyTensor:
    """A vector's numbers as a tensor of a shape with as many."""
    length = math.prod(shape[1:])

    def rows(start: int, stop: int) -> torch.Tensor:
        return vector.rows(start * length, stop * length).reshape(stop - start, *shape[1:])

    return Made(shape, vector.dtype, rows)


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """A contiguous tensor's bytes, not copied."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A tensor that lies in a file: `offset` in bytes from the file's start, `stride` in elements."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    stride: tuple[int, ...]

    @cached_property
    def _is_contiguous(self) -> bool:
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True

    @property
    def span(self) -> int:
        """How many elements lie between its first and its last, both included; 0 where it has none."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.stride, strict=True))

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor. Raises CheckpointError where the file ends before the tensor does."""
        if not self.shape:
            return self._read(self.offset, 1).reshape(())
        if self._is_contiguous:
            row_length = math.prod(self.shape[1:])
            first = self.offset + start * row_length * self.dtype.itemsize
            return self._read(first, (stop - start) * row_length).reshape(stop - start, *self.shape[1:])
        shape = (stop - start, *self.shape[1:])
        part = replace(self, shape=shape, offset=self.offset + start * self.stride[0] * self.dtype.itemsize)
        return part._read(part.offset, part.span).as_strided(shape, self.stride).contiguous()

    def row(self, index: int) -> Stored:
        """One row as a tensor."""
        offset = self.offset + index * self.stride[0] * self.dtype.itemsize
        return replace(self, offset=offset, shape=self.shape[1:], stride=self.stride[1:])

    def merged(self) -> LazyTensor:
        """See `merged`; the strides of a file's tensor allow it but where it was cut out of another one."""
        if self.stride[0] != self.shape[1] * self.stride[1]:
            return merged(Made(self.shape, self.dtype, self.rows))
        return replace(self, shape=(self.shape[0] * self.shape[1], *self.shape[2:]), stride=self.stride[1:])

    def _read(self, offset: int, count: int) -> torch.Tensor:
        buffer = np.empty(count * self.dtype.itemsize, dtype=np.uint8)
        done = read_range(self.path, offset, buffer.data)
        if done < buffer.nbytes:
            raise CheckpointError(f"{self.path}: ends inside a tensor, expected {buffer.nbytes - done} more bytes")
        return torch.from_numpy(buffer).view(self.dtype)


@dataclass(frozen=True, eq=False)
class InMemory:
    """A tensor in memory."""

    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """See LazyTensor."""
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        """See LazyTensor."""
        return self.tensor.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        return self.tensor[start:stop].contiguous() if self.shape else self.tensor


@dataclass(frozen=True)
class Zeros:
    """A tensor of zeros that takes no memory."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        shape = (stop - start, *self.shape[1:]) if self.shape else ()
        return torch.zeros(shape, dtype=self.dtype)


@dataclass(frozen=True, eq=False)
class Repeated:
    """A tensor's rows, repeated `times` times; a writer needs to make them only once. `turned`: see Made."""

    old: LazyTensor
    times: int
    turned: Callable[[], LazyTensor] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """See LazyTensor."""
        return (self.times * self.old.shape[0], *self.old.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """See LazyTensor."""
        return self.old.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        period, parts = self.old.shape[0], list[torch.Tensor]()
        while start < stop:
            first = start % period
            parts.append(self.old.rows(first, min(period, first + stop - start)))
            start += len(parts[-1])
        return parts[0] if len(parts) == 1 else torch.cat(parts)
