"""Grown tensors: made from rows of the old ones when the writer asks for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from ckptgrow.errors import CheckpointError, RequestError
from ckptgrow.spaces.gather import Gather, TensorGrowth
from ckptgrow.spaces.noise import Noise, noise_for
from ckptgrow.spaces.split import Split
from ckptgrow.storage.tensors import LazyTensor, Repeated, chunks, num_elements


@dataclass(frozen=True, eq=False)
class Own:
    """An old tensor's rows as a tensor of its own: what is one object is one tensor in a file, as tied weights are."""

    old: LazyTensor

    @property
    def shape(self) -> tuple[int, ...]:
        """See LazyTensor."""
        return self.old.shape

    @property
    def dtype(self) -> torch.dtype:
        """See LazyTensor."""
        return self.old.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        return self.old.rows(start, stop)


@dataclass(frozen=True, eq=False)
class Gathered:
    """A tensor's growth by one gather."""

    old: LazyTensor
    gather: Gather

    @property
    def shape(self) -> tuple[int, ...]:
        """See LazyTensor."""
        return self.gather.shape

    @property
    def dtype(self) -> torch.dtype:
        """See LazyTensor."""
        return self.old.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        return self.gather.rows(self.old.rows, start, stop)


def gathered(old: LazyTensor, gather: Gather) -> LazyTensor:
    """A tensor's growth by one gather, its rows made once where they repeat."""
    if gather.num_repeats == 1:
        return Gathered(old, gather)
    return Repeated(Gathered(old, gather.once), gather.num_repeats)


@dataclass(frozen=True, eq=False)
class Scaled:
    """A tensor times a number, computed in float64 and rounded once."""

    old: LazyTensor
    factor: float

    @property
    def shape(self) -> tuple[int, ...]:
        """See LazyTensor."""
        return self.old.shape

    @property
    def dtype(self) -> torch.dtype:
        """See LazyTensor."""
        return self.old.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        return (self.old.rows(start, stop).double() * self.factor).to(self.dtype)


@dataclass(frozen=True, eq=False)
class Offset:
    """A tensor to which the model adds `offset`: the sum grows, computed in float64 and rounded once."""

    old: LazyTensor
    gather: Gather
    offset: float

    @property
    def shape(self) -> tuple[int, ...]:
        """See LazyTensor."""
        return self.gather.shape

    @property
    def dtype(self) -> torch.dtype:
        """See LazyTensor."""
        return self.old.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        total = self.gather.rows(lambda first, last: self.old.rows(first, last).double() + self.offset, start, stop)
        return (total - self.offset).to(self.dtype)


@dataclass(frozen=True, eq=False)
class Filled:
    """A tensor of one value."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    value: float

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        return torch.full((stop - start, *self.shape[1:]), self.value, dtype=self.dtype)


@dataclass(frozen=True, eq=False)
class Separated:
    """A grown weight plus a null-space term, added in float64 and rounded once; `sigma` in units of the root mean
    square of `measure`: the old weight, or for an average of weights the one that it follows, so that it averages the
    grown ones.
    """

    old: LazyTensor
    growth: TensorGrowth
    gather: Gather
    sigma: float
    seed: int
    name: str
    measure: LazyTensor

    @property
    def shape(self) -> tuple[int, ...]:
        """See LazyTensor."""
        return self.gather.shape

    @property
    def dtype(self) -> torch.dtype:
        """See LazyTensor."""
        return self.old.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        exact = self.gather.rows(lambda first, last: self.old.rows(first, last).double(), start, stop)
        if self._noise is not None:
            exact += torch.from_numpy(self._noise.rows(start, stop))
        rounded = exact.to(self.dtype)
        if not math.isfinite(rounded.sum().item()) and bool((exact.isfinite() & ~rounded.isfinite()).any()):
            raise RequestError(f"{self.name}: noise {self.sigma:g} is beyond {self.dtype}, expected less of it")
        return rounded

    @cached_property
    def _noise(self) -> Noise | None:
        amplitude = self.sigma * root_mean_square(self.measure)
        return noise_for(self.growth, seed=self.seed, name=self.name, amplitude=amplitude)


@dataclass(frozen=True, eq=False)
class Dealt:
    """A weight dealt out among the copies that it reads."""

    old: LazyTensor
    split: Split

    @property
    def shape(self) -> tuple[int, ...]:
        """See LazyTensor."""
        return self.split.whole.shape

    @property
    def dtype(self) -> torch.dtype:
        """See LazyTensor."""
        return self.old.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        rows = self.split.whole.rows(self.old.rows, start, stop)
        self.split.deal(rows, start)
        return rows


@dataclass(frozen=True, eq=False)
class Finite:
    """A tensor whose rows are refused where they hold NaN or infinity."""

    old: LazyTensor
    where: str

    @property
    def shape(self) -> tuple[int, ...]:
        """See LazyTensor."""
        return self.old.shape

    @property
    def dtype(self) -> torch.dtype:
        """See LazyTensor."""
        return self.old.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor; raises CheckpointError where a value is not finite."""
        rows = self.old.rows(start, stop)
        # a sum is NaN or infinite where a term is; finite sums may overflow, so the slow check decides
        if not math.isfinite(rows.sum().item()) and not bool(torch.isfinite(rows).all()):
            raise CheckpointError(
                f"{self.where}: holds NaN or infinity, expected finite numbers; grow an earlier checkpoint, or pass "
                "⟦allow_nonfinite⟧"
            )
        return rows


def root_mean_square(tensor: LazyTensor) -> float:
    """√(mean of squares), in float64, a few rows at a time."""
    total = sum(float(tensor.rows(start, stop).double().square().sum()) for start, stop in chunks(tensor))
    return math.sqrt(total / max(1, num_elements(tensor)))
