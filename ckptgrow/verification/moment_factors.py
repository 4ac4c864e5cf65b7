"""Second moments that are stored as two factors: row by row, their product is what is compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ckptgrow.storage.tensors import InMemory, LazyTensor, Made, merged, whole
from ckptgrow.verification.magnitude import largest
from ckptgrow.verification.moment_tensors import Case, are_as, is_young, largest_of, left_by
from ckptgrow.verification.new_rows import moments_of_new_rows
from ckptgrow.verification.optimizers import KEPT_AXES
from ckptgrow.verification.precision import STORED_TOLERANCES, smallest
from ckptgrow.verification.tensor_blocks import blocks_of

FEW_FACTORS = 2.0  # times the roundings of a product of two stored factors over the mean of one
Combine = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # of rows, columns and the rows' mean


@dataclass(frozen=True, eq=False)
class Factors:
    """Adafactor's factors in float64, shapes (…, n, 1) and (…, 1, m); each is a mean along the axis of size 1."""

    rows: torch.Tensor
    columns: torch.Tensor

    @classmethod
    def of(cls, record: Mapping[str, Any], row: str, column: str) -> Factors:
        """Those of a record; transformers' factors drop the axis that they average over."""
        rows, columns = whole(record[row]).double(), whole(record[column]).double()
        return cls(rows, columns) if row in KEPT_AXES else cls(rows.unsqueeze(-1), columns.unsqueeze(-2))

    @cached_property
    def product(self) -> LazyTensor:
        """The second moment that they stand for."""
        return _Outer(self, _product)

    def left(self, dtype: torch.dtype) -> LazyTensor:
        """The largest error that rounding leaves in each entry of the product rows · columns / mean.

        Each of the three is rounded once, relative to itself or, where it is nearly zero, to the dtype's smallest
        number.
        """
        least = smallest(dtype)

        def combine(rows: torch.Tensor, columns: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
            product = _product(rows, columns, mean)
            mean = torch.where(mean == 0, least, mean)
            return 3 * left_by(dtype) * product + least * (rows + columns + product + least) / mean

        return _Outer(self, combine)

    def unequal_means(self, dtype: torch.dtype) -> float:
        """How far the means of both factors differ, in units of what rounding leaves.

        Both are means of the same squares. Their product alone would not show a factor that was moved between them.
        """
        of_rows, of_columns = self.rows.mean(-2), self.columns.mean(-1)
        return largest(of_rows - of_columns) / (STORED_TOLERANCES[dtype] * largest(of_columns) + smallest(dtype))


def _product(rows: torch.Tensor, columns: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    return rows * columns / torch.where(mean == 0, 1.0, mean)


@dataclass(frozen=True, eq=False)
class _Outer:
    """The tensor that is made of two factors entry by entry, some rows at a time."""

    factors: Factors
    combine: Combine
    dtype: torch.dtype = torch.float64

    @property
    def shape(self) -> tuple[int, ...]:
        """See LazyTensor."""
        return (*self.factors.rows.shape[:-1], self.factors.columns.shape[-1])

    @cached_property
    def _parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.factors.rows, self.factors.columns, self.factors.rows.mean(-2, keepdim=True)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        rows, columns, mean = self._parts
        if len(self.shape) == 2:
            return self.combine(rows[start:stop], columns, mean)
        return self.combine(rows[start:stop], columns[start:stop], mean[start:stop])

    def merged(self) -> LazyTensor:
        """See `merged`: rows of several matrices, one after the other."""
        rows, columns, mean = self._parts
        if len(self.shape) != 3:
            return merged(Made(self.shape, self.dtype, self.rows))
        flat, height = rows.flatten(0, 1), rows.shape[1]

        def make(start: int, stop: int) -> torch.Tensor:
            matrix = torch.arange(start, stop) // height
            return self.combine(flat[start:stop], columns[matrix].squeeze(-2), mean[matrix].squeeze(-2))

        return Made((len(flat), self.shape[2]), self.dtype, make)


@dataclass(frozen=True, kw_only=True)
class Factored:
    """The two factors of a record, by the names of their keys."""

    case: Case
    keys: tuple[str, str]
    old_record: Mapping[str, Any]
    new_record: Mapping[str, Any]

    @property
    def label(self) -> str:
        """See Compared."""
        return f"{' and '.join(self.keys)} of {self.case.name}"

    @cached_property
    def _after(self) -> Factors:
        return Factors.of(self.new_record, *self.keys)

    @property
    def new(self) -> LazyTensor:
        """See Compared."""
        return self._after.product

    def error(self) -> float:
        """See Compared: the error of the factors' product, or of their means."""
        dtype = self.new_record[self.keys[0]].dtype
        return max(self._of_product(dtype), self._after.unequal_means(dtype))

    def _of_product(self, dtype: torch.dtype) -> float:
        case, after = self.case, self._after
        if case.link.has_no_moments or case.gradient is None:
            return largest_of(after.product) / STORED_TOLERANCES[dtype]
        before = Factors.of(self.old_record, *self.keys)
        if case.pair.row_record is not None:
            if case.link.is_padded:
                new_rows = moments_of_new_rows(case.pair, case.link, InMemory(before.rows), 2, "row")
                if not are_as(case, InMemory(after.rows), new_rows, dtype):
                    return math.inf
        elif case.link.is_padded and not is_young(case, after.product, 2, dtype):
            return math.inf
        left, worst = after.left(dtype), 0.0
        for block in blocks_of(case.link, after.product.shape):
            expected = case.expected(block.link, block.small(before.product), 2)
            allowed = FEW_FACTORS * case.num_growths * block.grown(left) + smallest(torch.float64)
            worst = max(worst, largest((block.grown(after.product) - expected) / allowed))
        return worst
