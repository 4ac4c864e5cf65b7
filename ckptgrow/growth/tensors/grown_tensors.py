"""Grown tensors: made from rows of the old ones when the writer asks for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch

from ckptgrow.errors import CheckpointError, RequestError
from ckptgrow.spaces.gather import Gather
from ckptgrow.spaces.noise import Noise, key_of, quick_draws
from ckptgrow.spaces.split import WHOLE, Split
from ckptgrow.spaces.turned_split import TurnedSplit
from ckptgrow.storage.code_blocks import CodeMap, InBlocks
from ckptgrow.storage.tensors import LazyTensor, Made, Repeated, chunks, num_elements
from ckptgrow.storage.transposed import transposed

MATRIX = 2  # axes


def own(old: LazyTensor) -> LazyTensor:
    """An old tensor's rows as a new object: one object is written as one tensor, as tied weights are."""
    if isinstance(old, InBlocks):
        return replace(old, codes=own(old.codes), scales=own(old.scales))
    return Made(old.shape, old.dtype, old.rows, lambda: own(transposed(old)))


def gathered(old: LazyTensor, gather: Gather) -> LazyTensor:
    """A tensor grown by one gather; rows that repeat are made once."""

    def turned() -> LazyTensor:
        return gathered(transposed(old), gather.turned)

    if gather.num_repeats > 1:
        return Repeated(gathered(old, gather.once), gather.num_repeats, turned)
    return Made(gather.shape, old.dtype, lambda start, stop: gather.rows(old.rows, start, stop), turned)


def scaled(old: LazyTensor, factor: float) -> LazyTensor:
    """A tensor times a number, computed in float64 and rounded once; of one in codes, the scales of its blocks."""
    if isinstance(old, InBlocks) and factor > 0:
        return replace(old, codes=own(old.codes), scales=scaled(old.scales, factor))
    return Made(
        old.shape,
        old.dtype,
        lambda *rows: (old.rows(*rows).double() * factor).to(old.dtype),
        lambda: scaled(transposed(old), factor),
    )


def scaled_beside(old: LazyTensor, factor: float, offset: float) -> LazyTensor:
    """A tensor to which the model adds `offset`: the sum times a number, computed in float64 and rounded once."""

    def rows(start: int, stop: int) -> torch.Tensor:
        return ((old.rows(start, stop).double() + offset) * factor - offset).to(old.dtype)

    return Made(old.shape, old.dtype, rows)


def drawn(like: LazyTensor, measure: LazyTensor, seed: int, name: str) -> LazyTensor:
    """Uniform draws in a tensor's shape, as large as `measure` in the root mean square; `name` decides which."""

    @cache
    def amplitude() -> float:
        return root_mean_square(measure)

    def rows(start: int, stop: int) -> torch.Tensor:
        found = torch.from_numpy(quick_draws(key_of(seed, name), like.shape, start, stop))
        return found.mul_(amplitude()).to(like.dtype)

    return Made(like.shape, like.dtype, rows)


def gathered_beside(old: LazyTensor, gather: Gather, offset: float) -> LazyTensor:
    """The growth of a tensor to which the model adds `offset`: their sum grows, in float64, and is rounded once."""

    def rows(start: int, stop: int) -> torch.Tensor:
        total = gather.rows(lambda *old_rows: old.rows(*old_rows).double() + offset, start, stop)
        return (total - offset).to(old.dtype)

    return Made(gather.shape, old.dtype, rows)


def constant(shape: tuple[int, ...], dtype: torch.dtype, value: float) -> LazyTensor:
    """A tensor whose entries all have one value."""
    return Made(shape, dtype, lambda start, stop: torch.full((stop - start, *shape[1:]), value, dtype=dtype))


def with_noise(old: LazyTensor, gather: Gather, noise: Callable[[], Noise | None], what: str) -> LazyTensor:
    """A grown weight plus a null-space term, added in float64 and rounded once; `noise` makes the term when it is
    needed.

    Reading rows raises RequestError where the sum is beyond the dtype's range; its message names `what`.
    """

    def rows(start: int, stop: int) -> torch.Tensor:
        exact, term = gather.rows(lambda *old_rows: old.rows(*old_rows).double(), start, stop), noise()
        if term is not None:
            exact += torch.from_numpy(term.rows(start, stop))
        rounded = exact.to(old.dtype)
        _check_range(exact, rounded, what)
        return rounded

    return Made(gather.shape, old.dtype, rows)


def dealt(old: LazyTensor, split: Split, name: str) -> LazyTensor:
    """A weight dealt out among the copies that it reads.

    Where a share larger than the weight leaves the dtype's range, making rows raises RequestError, which says `name`.
    """

    def turned() -> LazyTensor:
        return _dealt(transposed(old), split.whole.turned, TurnedSplit(split).deal, split.spread, name)

    can_turn = len(old.shape) == MATRIX and split.has_a_bit_each
    made = _dealt(old, split.whole, split.deal, split.spread, name)
    return replace(made, turned=turned) if can_turn else made


def _dealt(
    old: LazyTensor, gather: Gather, deal: Callable[[torch.Tensor, int], None], spread: float, name: str
) -> Made:
    def rows(start: int, stop: int) -> torch.Tensor:
        found = gather.rows(old.rows, start, stop)
        whole = found if spread == WHOLE else found.clone()
        deal(found, start)
        if whole is not found:
            _check_range(whole, found, f"{name}: spread {spread:g}")
        return found

    return Made(gather.shape, old.dtype, rows)


def _check_range(given: torch.Tensor, made: torch.Tensor, what: str) -> None:
    """Raises RequestError where finite numbers became none."""
    if not math.isfinite(made.sum().item()) and bool((given.isfinite() & ~made.isfinite()).any()):
        raise RequestError(f"{what} is beyond {made.dtype}, expected less of it")


def checked_finite(old: LazyTensor, place: str) -> LazyTensor:
    """The same tensor; reading rows raises CheckpointError where they hold NaN or infinity."""
    if isinstance(old, CodeMap):
        return old
    if isinstance(old, InBlocks):
        return replace(old, scales=checked_finite(old.scales, place))

    def rows(start: int, stop: int) -> torch.Tensor:
        found = old.rows(start, stop)
        # a sum is NaN or infinite where a term is; finite sums may overflow, so the slow check decides
        if not math.isfinite(found.sum().item()) and not bool(torch.isfinite(found).all()):
            raise CheckpointError(
                f"{place}: holds NaN or infinity, expected finite numbers; grow an earlier checkpoint, or pass "
                "⟦allow_nonfinite⟧"
            )
        return found

    return Made(old.shape, old.dtype, rows, lambda: checked_finite(transposed(old), place))


def root_mean_square(tensor: LazyTensor) -> float:
    """√(mean of squares), in float64, a few rows at a time."""
    total = sum(float(tensor.rows(start, stop).double().square().sum()) for start, stop in chunks(tensor))
    return math.sqrt(total / max(1, num_elements(tensor)))
