"""Preconditioners of the gradient along each axis, compared with what the gradient's measured factor demands.

Let g be that factor, n_a the number of copies along axis a. Products of gradients hold g² times those of the
other axes' copies; a basis is orthonormal, and its first columns are the old ones, spread over the copies and 1/√n_a as
large; squares in the bases are g² · n_a for each such axis where the old ones were, and zero in the directions in which
equal copies have no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from ckptgrow.spaces.selection import selected
from ckptgrow.storage.tensors import LazyTensor, is_lazy, whole
from ckptgrow.verification.magnitude import largest
from ckptgrow.verification.moment_tensors import Case, Compared
from ckptgrow.verification.precision import STORED_TOLERANCES


def in_bases(case: Case, keys: Sequence[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Compared]:
    """The matrices of a record and the squares in their bases, by the keys of these three."""
    products, bases, squares = keys
    for axis, (before, after) in enumerate(zip(old[products], new[products], strict=True)):
        if is_lazy(after):
            yield AlongAxes(case=case, key=f"{products}[{axis}]", old=before, new=after, axes=(axis,), what="products")
    for axis, (before, after) in enumerate(zip(old[bases], new[bases], strict=True)):
        if is_lazy(after):
            yield AlongAxes(case=case, key=f"{bases}[{axis}]", old=before, new=after, axes=(axis,), what="basis")
    turned = tuple(axis for axis, one in enumerate(old[bases]) if is_lazy(one))
    yield AlongAxes(case=case, key=squares, old=old[squares], new=new[squares], axes=turned, what="squares")


@dataclass(frozen=True, eq=False, kw_only=True)
class AlongAxes:
    """One matrix of an axis, or the squares in the bases of some axes; `what` says which."""

    case: Case
    key: str
    old: LazyTensor
    new: LazyTensor
    axes: tuple[int, ...]
    what: Literal["products", "basis", "squares"]

    @property
    def label(self) -> str:
        """See Compared."""
        return f"{self.key} of {self.case.name}"

    def error(self) -> float:
        """See Compared; relative to the largest entry."""
        found, old = whole(self.new).double(), whole(self.old).double()
        expected = self._expected(old)
        if expected is None or expected.shape[:1] != found.shape[:1]:
            return math.inf
        error = 0.0
        if self.what == "basis":
            error = largest(found.T @ found - torch.eye(len(found), dtype=torch.float64))
            found = found[:, : expected.shape[1]]
        scale = largest(expected)
        difference = largest(found - expected)
        return max(error, difference / scale if scale > 0 else difference) / STORED_TOLERANCES[self.new.dtype]

    def _expected(self, old: torch.Tensor) -> torch.Tensor | None:
        if self.what == "products":
            others = math.prod(self._copies) / self._copies[self.axes[0]]
            return None if self._factor is None else self._factor**2 * others * self._spread(self._spread(old, 0), 1)
        if self.what == "basis":
            return self._spread(old, 0) / math.sqrt(self._copies[self.axes[0]])
        if self._factor is None:
            return None
        for axis, growth in enumerate(self.case.link.growths):
            if axis in self.axes:
                size = [*old.shape]
                size[axis] = self.new.shape[axis] - growth.num_old
                old = torch.cat([old * self._copies[axis], old.new_zeros(size)], axis)
            else:
                old = self._spread(old, axis, axis)
        return self._factor**2 * old

    @property
    def _factor(self) -> float | None:
        gradient = self.case.gradient
        if self.case.are_unscaled:
            return 1.0
        return float(gradient.factors[0]) if gradient is not None and gradient.factors.numel() == 1 else None

    @cached_property
    def _copies(self) -> list[float]:
        """How many copies each coordinate has along each axis, without those whose moments are begun anew."""
        link = self.case.link
        counts = [float((~marks).sum()) for marks in link.anew]
        return [count / growth.num_old for count, growth in zip(counts, link.growths, strict=True)]

    def _spread(self, old: torch.Tensor, axis: int, own: int | None = None) -> torch.Tensor:
        """A tensor along an axis, read at the source of every grown coordinate; zero where nothing is copied."""
        link, own = self.case.link, self.axes[0] if own is None else own
        growth, kept, anew = link.growths[own], link.kept[own], link.anew[own]
        values = selected(old, axis, growth.source)
        values = torch.where(_along(torch.from_numpy(anew), axis, values.dim()), 0.0, values)
        if kept is None:
            return values
        size = [*values.shape]
        size[axis] = self._num_new(own)
        return values.new_zeros(size).index_copy(axis, torch.from_numpy(np.asarray(kept)), values)

    def _num_new(self, axis: int) -> int:
        return self.case.pair.grown.checkpoint.tensors[self.case.link.grown.name].shape[axis]


def _along(marks: torch.Tensor, axis: int, num_axes: int) -> torch.Tensor:
    shape = [1] * num_axes
    shape[axis] = -1
    return marks.reshape(shape)
