"""Tensors of one shape in one, each a row of it: all layers, or all experts.

Such rows are large, so that nobody makes one whole where a few rows inside it do: a reader asks for the row as a tensor
of its own, and a writer takes what is stacked one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from ckptgrow.storage.tensors import LazyTensor, Made, whole


@runtime_checkable
class _Divisible(Protocol):
    def row(self, index: int) -> LazyTensor: ...


@dataclass(frozen=True, eq=False)
class Stack:
    """Tensors as the rows of one."""

    stacked: Sequence[LazyTensor]

    @property
    def shape(self) -> tuple[int, ...]:
        """See LazyTensor."""
        return (len(self.stacked), *self.stacked[0].shape)

    @property
    def dtype(self) -> torch.dtype:
        """See LazyTensor."""
        return self.stacked[0].dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        return torch.stack([whole(one) for one in self.stacked[start:stop]])

    def row(self, index: int) -> LazyTensor:
        """See `row_of`."""
        return self.stacked[index]


def is_divisible(tensor: LazyTensor) -> bool:
    """Whether a few rows inside one of its rows can be read without the others."""
    return isinstance(tensor, _Divisible)


def row_of(tensor: LazyTensor, index: int) -> LazyTensor:
    """One row of a tensor as a tensor; it is read whole where the tensor cannot say how it is divided (`row`)."""
    if isinstance(tensor, _Divisible):
        return tensor.row(index)
    return Made(tensor.shape[1:], tensor.dtype, lambda *some: tensor.rows(index, index + 1)[0][slice(*some)])
