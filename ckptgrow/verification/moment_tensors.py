"""A stored moment, block by block, against the small one times a power of the gradient's measured factor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch

from ckptgrow.storage.tensors import LazyTensor
from ckptgrow.verification.eight_bits import allowances, are_coarse
from ckptgrow.verification.gradients import GradientScale
from ckptgrow.verification.magnitude import largest
from ckptgrow.verification.new_rows import moments_of_new_rows
from ckptgrow.verification.optimizers import Measured
from ckptgrow.verification.pair import Link, Pair
from ckptgrow.verification.precision import STORED_TOLERANCES, rounding, smallest
from ckptgrow.verification.tensor_blocks import (
    Block,
    Tensors,
    blocks_of,
    copies,
    exact_sum,
    pieces,
    row_sums,
    rows_at,
    windows_of,
)

FEW = 1.01  # roundings: an expected number in float64, rounded once to the stored dtype
OF_FLOAT64 = 16.0  # roundings of float64, where numbers are stored in it
ROUNDING = 1e-12  # of sums in float64
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Compared(Protocol):
    """Tensors of two records that are compared with each other."""

    @property
    def label(self) -> str:
        """Which they are, as "key of parameter"."""
        ...

    @property
    def new(self) -> LazyTensor:
        """What is compared, in the grown shape."""
        ...

    def error(self) -> float:
        """The largest error of an entry in units of what rounding it may leave, relative to the entry, however small;
        infinity for NaN.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Case:
    """One parameter, and all that its record is judged by.

    `old` and `new`: the options of its group in both checkpoints; `limit`: the earliest step that a growth set;
    `has_group_step`: the file has one step for all parameters of a group, the new ones too.
    """

    name: str
    link: Link
    gradient: GradientScale | None
    scales: Measured
    old: Mapping[str, Any]
    new: Mapping[str, Any]
    limit: int | None
    has_group_step: bool
    pair: Pair

    @property
    def num_growths(self) -> int:
        return self.pair.num_growths

    @property
    def are_unscaled(self) -> bool:
        return self.pair.are_moments_unscaled

    def step(self, old: float) -> float:
        if self.link.has_no_moments and not self.has_group_step:
            return 0.0
        return old if self.limit is None else min(old, self.limit)

    def expected(self, link: Link, old: torch.Tensor, power: int) -> torch.Tensor:
        """The expected entries of the grown record in a block, from the small record's, float64: these, times a power
        of the gradient's factor.
        """
        small = link.without_anew(link.spread(old))
        if not self.is_scaled(power) or self.gradient is None:
            return small
        expected = self.gradient.at(link) ** power * small
        return link.squares(expected) if power == 2 else expected

    def is_scaled(self, power: int) -> bool:
        """Whether entries of this power of the gradient are multiplied by its factor."""
        return power != 0 and self.gradient is not None and not self.are_unscaled


@dataclass(frozen=True, kw_only=True)
class Moment:
    """An entry of a record that is made of a power of the gradient."""

    case: Case
    key: str
    tensors: Tensors
    power: int
    times: float = 1.0

    @property
    def label(self) -> str:
        """See Compared."""
        return f"{self.key} of {self.case.name}"

    @property
    def new(self) -> LazyTensor:
        """See Compared."""
        return self.tensors.new

    def error(self) -> float:
        """See Compared."""
        case, dtype = self.case, self.new.dtype
        if case.link.has_no_moments or case.gradient is None:
            return largest_of(self.new) / STORED_TOLERANCES[dtype]
        if case.pair.row_record is not None and case.link.is_padded:
            new_rows = moments_of_new_rows(case.pair, case.link, self.tensors.old, self.power, self.key)
            if not are_as(case, self.new, new_rows, dtype):
                return math.inf
        elif case.link.is_padded and self.power and not is_young(case, self.new, self.power, dtype):
            return math.inf
        if are_coarse(self.new):
            return math.inf
        is_plain = self._factor is not None and self._allowances is None
        compare = self._of_copies if is_plain else self._of_classes
        return max((compare(block) for block in self.tensors.blocks()), default=0.0)

    @cached_property
    def _allowances(self) -> LazyTensor | None:
        return allowances(self.new)

    @cached_property
    def _factor(self) -> float | None:
        """By how much every copy is larger than its source; None where that is not one number."""
        case, is_scaled = self.case, self.case.is_scaled(self.power)
        if any(marks.any() for marks in case.link.anew):
            return None
        if not is_scaled or case.gradient is None:
            return self.times
        is_one = case.gradient.factors.numel() == 1 and (self.power != 2 or not any(map(_is_there, case.link.unequal)))
        return float(case.gradient.factors[0] ** self.power) * self.times if is_one else None

    def _of_classes(self, block: Block) -> float:
        expected = self.times * self.case.expected(block.link, block.small(self.tensors.old).double(), self.power)
        given = None if self._allowances is None else block.grown(self._allowances).double()
        return self._largest(block.grown(self.new).double(), expected, given)

    def _of_copies(self, block: Block) -> float:
        """The same where all copies are alike: most are what the expected number is rounded to, bit for bit, and then
        so large is the error of that. No other number of the dtype is nearer to what is expected.
        """
        found, expected = block.grown(self.new), block.small(self.tensors.old).double()
        if self._factor not in (None, 1.0):
            expected = expected * self._factor
        rounded = expected.to(found.dtype)
        worst = self._largest(rounded.double(), expected)
        for one, nearest, exact in copies(block.link, (found,), (rounded, expected)):
            if not _same_bits(one, nearest):
                worst = max(worst, self._largest(one.double(), exact))
        return worst

    def _largest(self, found: torch.Tensor, expected: torch.Tensor, given: torch.Tensor | None = None) -> float:
        difference = found - expected
        if not difference.any():
            return 0.0
        dtype = self.new.dtype
        allowed = expected.abs().mul_(left_by(dtype)).add_(FEW / 2 * smallest(dtype)).mul_(self.case.num_growths)
        allowed = allowed if given is None else allowed.add_(given, alpha=self.case.num_growths)
        return largest(difference.div_(allowed))


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of a dtype are the same bits: by numpy, in a third of the time that `torch.equal` takes."""
    bits = _BITS[one.itemsize]
    return np.array_equal(one.view(bits).numpy(), other.view(bits).numpy())


def _is_there(value: object) -> bool:
    return value is not None


@dataclass(frozen=True, kw_only=True)
class Updates:
    """An average of updates: it scales as the learning rate, and as the weight if that is its unit."""

    case: Case
    key: str
    tensors: Tensors

    @property
    def label(self) -> str:
        """See Compared."""
        return f"{self.key} of {self.case.name}"

    @property
    def new(self) -> LazyTensor:
        """See Compared."""
        return self.tensors.new

    def error(self) -> float:
        """See Compared; relative to the largest entry."""
        return self._error() / STORED_TOLERANCES[self.new.dtype]

    def _error(self) -> float:
        if self.case.link.has_no_moments:
            return largest_of(self.new)
        factor, difference, scale = self._factor(), 0.0, 0.0
        for block in self.tensors.blocks():
            small = block.link.without_anew(block.link.spread(block.small(self.tensors.old).double()))
            expected = factor * small
            difference = max(difference, largest(block.grown(self.new).double() - expected))
            scale = max(scale, largest(expected))
        return difference / scale if 0 < scale < math.inf and difference < math.inf else difference

    def _factor(self) -> float:
        old, new = self.case.old, self.case.new
        key = "initial_lr" if old.get("initial_lr") else "lr"  # a schedule that was moved moves the other
        before, after = old.get(key), new.get(key)
        rate = after / before if before and after else 1.0
        size = self.case.scales.size if old.get("scale_parameter") else 1.0
        return 1.0 if self.case.are_unscaled else rate * size


def left_by(dtype: torch.dtype) -> float:
    """The largest relative error of an entry that was computed in float64 and rounded once."""
    return OF_FLOAT64 * rounding(dtype) if dtype == torch.float64 else FEW * rounding(dtype)


def largest_of(tensor: LazyTensor) -> float:
    """The largest magnitude of an entry; infinity for NaN."""
    return max((largest(piece.double()) for piece in pieces(tensor)), default=0.0)


def are_as(case: Case, found: LazyTensor, expected: LazyTensor | None, dtype: torch.dtype) -> bool:
    """Whether new rows hold what is expected of them, zeros for None."""
    fresh = np.flatnonzero(case.link.grown.layout.axes[0].growth(case.pair.growths).is_fresh)
    size = 0.0 if expected is None else largest_of(expected)
    given = allowances(found)
    for (some,) in windows_of((len(fresh), math.prod(found.shape[1:]))):
        rows = rows_at(found, fresh[some]).double()
        if expected is None:
            if rows.any():
                return False
            continue
        wanted = expected.rows(some.start, some.stop)
        left = FEW / 2 * smallest(dtype) + (left_by(dtype) + ROUNDING) * wanted.abs() + ROUNDING * size
        left = left if given is None else left + rows_at(given, fresh[some])
        if not ((rows - wanted).abs() <= left).all():
            return False
    return True


def is_young(case: Case, found: LazyTensor, power: int, dtype: torch.dtype) -> bool:
    """Whether entries that copy nothing have no moments yet: they are zero, or a mean of old ones where recorded so."""
    of_all, lowest = list[float](), math.inf
    for piece in pieces(found):
        of_all += row_sums(piece.double().abs())
        lowest = min(lowest, float(piece.min()))
    magnitudes, sums, lowest_copied, num_copied = list[float](), list[float](), math.inf, 0
    for block in blocks_of(case.link, found.shape):
        copied = block.grown(found).double()
        sums += row_sums(copied)
        lowest_copied, num_copied = min(lowest_copied, float(copied.min())), num_copied + copied.numel()
        magnitudes += row_sums(copied.abs())
    entries, num_entries = exact_sum(of_all), math.prod(found.shape)
    rest = entries - exact_sum(magnitudes)
    if power == 2 and case.pair.fresh_moments == "mean":
        expected = (num_entries - num_copied) * exact_sum(sums) / num_copied
        least = smallest(dtype)
        left = 2 * left_by(dtype) * expected + least * num_entries  # what was averaged, and alike all that it is
        given = allowances(found)
        left += 0.0 if given is None else 2 * sum(float(piece.double().sum()) for piece in pieces(given))
        return lowest >= lowest_copied - least and abs(rest - expected) <= left
    return rest <= ROUNDING * entries
