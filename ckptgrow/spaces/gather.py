"""The one gather: how a weight, its gradient and its squared gradient grow, block by block.

For `out <- in` with write f and read b (DESIGN of the algebra in `growth`):

    weight              W'[o, i] = f_out[o] · b_in[i] · W[src o, src i] + N[o, i]      N invisible to the function
    gradient            g'[o, i] = b_out[o] · f_in[i] · g[src o, src i]
    squared gradient    v'[o, i] = (b_out[o] · f_in[i])² · v[src o, src i]   b² is another where a growth says so

The first two are linear in the old tensor, so Adam's first moment grows like the gradient and its second like the
square, exactly, in every block – off the diagonal too.

Source: derived from Shen et al., arXiv 2203.06211, section 3, whose released moments are zero off the diagonal.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch

from ckptgrow.spaces.growth import FRESH, Blends, BoolVector, FloatVector, Growth, Run
from ckptgrow.spaces.layout import Layout, Role

ZEROS = ("zero", "mean")  # ways of writing a fresh coordinate that copy and draw nothing
ReadRows = Callable[[int, int], torch.Tensor]


class BlockWeights(Protocol):
    """How the blocks of copies of a matrix share the old weight, relative to the even share."""

    def __call__(self, out_copy: int, in_copy: int, num_in_copies: int) -> float:
        """The factor on block (out_copy, in_copy); over in_copy the factors sum to num_in_copies."""
        ...


def tile(out_copy: int, in_copy: int, num_in_copies: int) -> float:
    """Every block gets the same share: W' = [[W/k, W/k], [W/k, W/k]]."""
    return 1.0


def diagonal(out_copy: int, in_copy: int, num_in_copies: int) -> float:
    """Copy c reads copy c alone: W' = blockdiag(W, …, W), the operator of the staged-training paper."""
    return float(num_in_copies) if out_copy == in_copy else 0.0


@dataclass(frozen=True, eq=False)
class GrownAxis:
    """One stored axis of a tensor and its growth."""

    role: Role
    growth: Growth

    @cached_property
    def is_zero(self) -> BoolVector:
        """For every new coordinate: whether it is fresh and filled with zeros, or a mean that takes their place."""
        fresh, filling = self.growth.is_fresh, self.growth.filling
        if self.role == "in":
            return fresh & (filling.read == "zero")
        marked = np.zeros_like(fresh) if self.growth.silencing is None else self.growth.silencing
        return fresh & np.where(marked, filling.silencing in ZEROS, filling.written in ZEROS)

    @cached_property
    def is_drawn(self) -> BoolVector:
        """For every new coordinate: whether it is fresh, and filled with drawn numbers."""
        filling = self.growth.filling
        is_copied = (filling.read if self.role == "in" else filling.written) == "copied"
        has_template = self.growth.begins_as != FRESH
        return self.growth.is_fresh & ~self.is_zero & ~(is_copied & has_template)

    @property
    def blends(self) -> Blends | None:
        """How fresh coordinates begin as means of old ones along this axis; None where none does."""
        return self.growth.read_as if self.role == "in" else self.growth.written_as

    @cached_property
    def begun(self) -> GrownAxis:
        """The axis with fresh coordinates that begin as copies as copies."""
        begins_as = np.where(self.is_zero | self.is_drawn, FRESH, self.growth.begins_as)
        source = np.where(self.growth.is_fresh, begins_as, self.growth.source)
        return GrownAxis(self.role, replace(self.growth, source=source))


@dataclass(frozen=True, eq=False)
class Gather:
    """Block copies with factors: new[…] = Π scale_axis[…] · block · old[source]. `scales` has one vector an axis."""

    axes: tuple[GrownAxis, ...]
    scales: tuple[FloatVector, ...]
    block_weights: BlockWeights | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The new tensor's shape."""
        return tuple(axis.growth.num_new for axis in self.axes)

    @cached_property
    def num_repeats(self) -> int:
        """How many times the rows of the first copies are repeated: [[g, g], [g, g]] is [g, g] twice.

        1 where rows do not repeat, as in block-diagonal weights.
        """
        if not self.axes or self.block_weights is not None:
            return 1
        growth, scale = self.axes[0].growth, self.scales[0]
        if growth.num_old in (0, growth.num_new) or growth.num_new % growth.num_old:
            return 1
        first = np.arange(growth.num_new) % growth.num_old
        alike = np.array_equal(growth.source, first) and np.array_equal(scale, scale[first])
        return growth.num_new // growth.num_old if alike else 1

    @cached_property
    def once(self) -> Gather:
        """The gather that makes the repeated rows once."""
        axis, *others = self.axes
        growth, size = axis.growth, len(self.scales[0]) // self.num_repeats
        part = Growth(
            source=growth.source[:size], write=growth.write[:size], read=growth.read[:size], num_old=growth.num_old
        )
        return Gather((GrownAxis(axis.role, part), *others), (self.scales[0][:size], *self.scales[1:]))

    @cached_property
    def turned(self) -> Gather:
        """The gather of the same matrix with its axes exchanged: entry by entry the same factors."""
        return Gather(self.axes[::-1], self.scales[::-1], self.block_weights)

    @cached_property
    def factors(self) -> frozenset[float]:
        """All that blocks of the old tensor are multiplied by, 0 aside."""
        kinds: list[dict[object, Run]] = [
            {(scale[run.start], run.copy, axis.growth.num_copies[run.start]): run for run in axis.growth.runs}
            for axis, scale in zip(self.axes, self.scales, strict=True)
        ]
        found = {self._factor(runs) for runs in itertools.product(*(kind.values() for kind in kinds))}
        return frozenset(found - {0.0})

    @cached_property
    def begun_anew(self) -> Gather:
        """The gather with zeros wherever the row or the column is new."""
        pairs = zip(self.axes, self.scales, strict=True)
        return replace(self, scales=tuple(np.where(axis.growth.is_new, 0.0, scale) for axis, scale in pairs))

    def rows(self, read: ReadRows, start: int, stop: int) -> torch.Tensor:
        """New rows [start, stop) along axis 0; `read(a, b)` gives the old rows [a, b) in their own dtype.

        Powers of two multiply exactly; other factors are applied in float64 and rounded once.
        """
        if not self.axes:
            return read(0, 1)
        result: torch.Tensor | None = None
        tail = self.shape[1:]
        for run in self.axes[0].growth.runs_between(start, stop):
            old = read(run.source, run.source + run.stop - run.start)
            if result is None:
                result = torch.zeros((stop - start, *tail), dtype=old.dtype)
            self._fill(result[run.start - start : run.stop - start], old, run)
        return torch.zeros((stop - start, *tail), dtype=read(0, 1).dtype) if result is None else result

    def _fill(self, target: torch.Tensor, old: torch.Tensor, row_run: Run) -> None:
        for runs in itertools.product(*(axis.growth.runs for axis in self.axes[1:])):
            factor = self._factor((row_run, *runs))
            if factor == 0:
                continue
            new_block, old_block = target, old
            for position, run in enumerate(runs, start=1):
                new_block = new_block.narrow(position, run.start, run.stop - run.start)
                old_block = old_block.narrow(position, run.source, run.stop - run.start)
            scale_into(new_block, old_block, factor)

    def _factor(self, runs: Sequence[Run]) -> float:
        factor = math.prod(float(scale[run.start]) for scale, run in zip(self.scales, runs, strict=True))
        return factor if self.block_weights is None else factor * self._share(runs)

    def _share(self, runs: Sequence[Run]) -> float:
        assert self.block_weights is not None
        out_copy = sum(run.copy for run, axis in zip(runs, self.axes, strict=True) if axis.role == "out")
        shares = [
            self.block_weights(out_copy, run.copy, int(axis.growth.num_copies[run.start]))
            for run, axis in zip(runs, self.axes, strict=True)
            if axis.role == "in" and not axis.growth.is_identity
        ]
        return math.prod(shares)


def is_power_of_two(factor: float) -> bool:
    """Whether multiplying by it changes the exponent, and perhaps the sign, alone.

    >>> is_power_of_two(-0.25), is_power_of_two(1 / 3)
    (True, False)
    """
    return abs(math.frexp(factor)[0]) == 0.5


def scale_into(target: torch.Tensor, block: torch.Tensor, factor: float) -> None:
    """target = factor · block: exact for powers of two, else computed in float64 and rounded once."""
    if factor == 1:
        target.copy_(block)
    elif is_power_of_two(factor):
        torch.mul(block, factor, out=target)
    else:
        target.copy_(block.double() * factor)


@dataclass(frozen=True, eq=False)
class TensorGrowth:
    """How one parameter grows: its axes with their growths, in storage order."""

    layout: Layout
    axes: tuple[GrownAxis, ...]

    @classmethod
    def of(cls, layout: Layout, growths: Mapping[str, Growth]) -> TensorGrowth:
        """The growth of a tensor with a layout, from the growths of its spaces."""
        axes = [GrownAxis(axis.role, axis.growth(growths)) for axis in layout.axes]
        return cls(layout, tuple(_of_a_gain(axis) for axis in axes) if layout.kind == "gain" else tuple(axes))

    @property
    def is_identity(self) -> bool:
        """Whether the parameter stays as it is."""
        return all(axis.growth.is_identity for axis in self.axes)

    @property
    def has_fresh(self) -> bool:
        """Whether there are entries that copy nothing."""
        return any(axis.growth.has_fresh for axis in self.axes)

    @property
    def has_blends(self) -> bool:
        """Whether rows begin as means of old ones."""
        return bool(self.axes) and self.axes[0].blends is not None

    @property
    def old_shape(self) -> tuple[int, ...]:
        """The shape that the old tensor must have."""
        return tuple(axis.growth.num_old for axis in self.axes)

    def weight(self, block_weights: BlockWeights) -> Gather:
        """The gather of the weight; block weights apply where both sides of a matrix grow by whole copies."""
        if block_weights is not tile and self._has_matching_copies():
            return Gather(self.axes, self._scales_of_copies, _per_copy(block_weights))
        return self._tiled

    @cached_property
    def _tiled(self) -> Gather:
        scales = tuple(axis.growth.read if axis.role == "in" else axis.growth.write for axis in self.axes)
        return Gather(self.axes, scales)

    @cached_property
    def begun(self) -> Gather:
        """The gather of a weight with fresh coordinates, those that begin as copies included."""
        return replace(self._tiled, axes=tuple(axis.begun for axis in self.axes))

    @cached_property
    def gradient(self) -> Gather:
        """The gather of the gradient, and of anything linear in it."""
        scales = tuple(axis.growth.write if axis.role == "in" else axis.growth.read for axis in self.axes)
        return Gather(self.axes, scales)

    @cached_property
    def square(self) -> Gather:
        """The gather of the squared gradient."""
        scales = (one.growth.write_squared if one.role == "in" else one.growth.read_squared for one in self.axes)
        return Gather(self.axes, tuple(scales))

    @cached_property
    def magnitude(self) -> Gather:
        """The gather of anything that scales as the gradient's absolute value."""
        return Gather(self.axes, tuple(np.abs(scale) for scale in self.gradient.scales))

    @cached_property
    def direction(self) -> Gather:
        """The gather of anything that has the gradient's sign alone: copies of the same size."""
        return Gather(self.axes, tuple(np.sign(scale) for scale in self.gradient.scales))

    @cached_property
    def unscaled(self) -> Gather:
        """The gather of the old numbers as they are."""
        return Gather(self.axes, tuple(np.ones(axis.growth.num_new) for axis in self.axes))

    @cached_property
    def _scales_of_copies(self) -> tuple[FloatVector, ...]:
        """The weight's scales with 1/f for reads, without the factor 1/copies: block weights then have it, exactly."""
        return tuple(1.0 / axis.growth.write if axis.role == "in" else axis.growth.write for axis in self.axes)

    def _has_matching_copies(self) -> bool:
        """Whether outputs and inputs both grow by the same whole number of copies."""
        counts = {
            role: {
                int(count)
                for axis in self.axes
                if axis.role == role and not axis.growth.is_identity
                for count in np.unique(axis.growth.num_copies)
            }
            for role in ("out", "in")
        }
        return len(counts["out"]) == 1 and counts["out"] == counts["in"] != {1}


def _of_a_gain(axis: GrownAxis) -> GrownAxis:
    """The axis of a gain, whose weight undoes that its norm's coordinates grow by 1/norm, which its gradient shows."""
    growth = axis.growth
    if growth.norm == 1:
        return axis
    read = growth.read / growth.norm
    return GrownAxis(axis.role, replace(growth, write=growth.write * growth.norm, read=read, squared=read**2))


def _per_copy(block_weights: BlockWeights) -> BlockWeights:
    def share(out_copy: int, in_copy: int, num_in_copies: int) -> float:
        return block_weights(out_copy, in_copy, num_in_copies) / num_in_copies

    return share
