"""The small and the grown checkpoint side by side: which tensor, and which of its coordinates, comes from which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ckptgrow.spaces.growth import BoolVector, FloatVector, Growth, IntVector
from ckptgrow.spaces.layers import LayerKind
from ckptgrow.spaces.layout import Axis, Role
from ckptgrow.spaces.selection import selected
from ckptgrow.state.claim import Claimed
from ckptgrow.state.opening import TrainingState
from ckptgrow.storage.tensors import LazyTensor, Made, whole
from ckptgrow.verification.coordinates import growths_since, has_begun_anew, moment_rules, row_record

SHORTEST_RUN = 16  # coordinates a run, in the mean, from which on sums run by run are the faster way
PARTS = 1 + 1e-9  # times b², beyond rounding: copies that serve different parts have squares that are larger


@dataclass(frozen=True, kw_only=True)
class LayerOrigin:
    """Where a grown layer comes from.

    `source`: the number of the old layer that it is or was made from; `kind`: how it was made, "old" for the layer
    itself; `zeroed`: the kinds of identity layers whose tensors were set to zero in it, over all growths.
    """

    source: int
    kind: LayerKind
    zeroed: frozenset[LayerKind] = frozenset()
    is_anew: bool = False  # it was made, or what it was made from was, with moments of no gradient
    is_drawn: bool = False  # its matrices are random numbers
    share: float = 1.0  # of what the old layer writes to the residual stream


UNCHANGED = LayerOrigin(source=0, kind="old")


@dataclass(frozen=True, eq=False, kw_only=True)
class CopiedAxis:
    """One axis of a link, without coordinates that copy nothing; the fields are those of `Link` along this axis."""

    growth: Growth
    kept: IntVector | None
    left: IntVector | None
    anew: BoolVector
    ratios: frozenset[float]
    shares: FloatVector
    unequal: FloatVector | None

    @classmethod
    def of(cls, axis: Axis, growths: Mapping[str, Growth], anew: Mapping[str, BoolVector] | None = None) -> CopiedAxis:
        """The axis by the growths of its spaces; `anew` marks coordinates whose moments were begun anew."""
        whole_growth = axis.growth(growths)
        kept = np.flatnonzero(~whole_growth.is_fresh) if whole_growth.has_fresh else None
        left = _left_of(whole_growth)
        growth = _of_left(whole_growth, left)
        ratios = {float(ratio) for ratio in np.unique(1 / growth.read)}
        if whole_growth.has_fresh:
            ratios.add(whole_growth.num_new / whole_growth.num_old)
        marks = axis.marked(anew) if anew else np.zeros(whole_growth.num_new, np.bool_)
        return cls(
            growth=growth,
            kept=kept,
            left=left,
            anew=marks if kept is None else marks[kept],
            ratios=frozenset(ratios),
            shares=np.unique(growth.read),
            unequal=_excess(growth),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Link:
    """One grown parameter, the small parameter that it comes from, and the copies along each axis."""

    grown: Claimed
    small: Claimed
    growths: tuple[Growth, ...]  # one a stored axis; only sources and copies are used, never write and read
    kept: tuple[IntVector | None, ...]  # along each axis the coordinates that do not copy nothing; None: all
    left: tuple[
        IntVector | None, ...
    ] = ()  # along each axis the small coordinates from which something comes; None: all
    layer: LayerOrigin = UNCHANGED
    anew: tuple[BoolVector, ...] = ()  # along each axis, of the coordinates that copy something: moments begin anew
    # what holds of the whole tensor, also where the link is of a block of it (`tensor_blocks`)
    ratios: frozenset[float] = frozenset({1.0})  # of new to old sizes along the axes, one a class of copies
    shares: tuple[FloatVector, ...] = ()  # along each axis the shares that coordinates have, ascending: their classes
    unequal: tuple[FloatVector | None, ...] = ()  # along each axis by how much squares exceed those of equal parts
    num_terms: int = 1  # the largest number of grown entries whose sum is one small entry

    @classmethod
    def of(
        cls,
        grown: Claimed,
        small: Claimed,
        growths: Mapping[str, Growth],
        layer: LayerOrigin = UNCHANGED,
        anew: Mapping[str, BoolVector] | None = None,
    ) -> Link:
        """The link by the growths of the spaces; `anew` marks coordinates whose moments were begun anew."""
        return cls.along_axes(grown, small, lambda axis: CopiedAxis.of(axis, growths, anew), layer)

    @classmethod
    def along_axes(
        cls, grown: Claimed, small: Claimed, copied: Callable[[Axis], CopiedAxis], layer: LayerOrigin = UNCHANGED
    ) -> Link:
        """The link whose axes are known, so that many links share what is the same for all of them."""
        axes = [copied(axis) for axis in grown.layout.axes]
        roles: list[Role] = [axis.role for axis in grown.layout.axes]
        return cls(
            grown=grown,
            small=small,
            growths=tuple(axis.growth for axis in axes),
            kept=tuple(axis.kept for axis in axes),
            left=tuple(axis.left for axis in axes),
            layer=layer,
            anew=tuple(axis.anew for axis in axes),
            ratios=frozenset[float]().union(*(axis.ratios for axis in axes)),
            shares=tuple(axis.shares for axis in axes),
            unequal=tuple(axis.unequal for axis in axes),
            num_terms=prod(_num_summed(axis.growth, role) for axis, role in zip(axes, roles, strict=True)),
        )

    def squares(self, expected: torch.Tensor) -> torch.Tensor:
        """What is expected of squares, from those of copies with equal gradients: more where they are unequal parts."""
        for axis, excess in enumerate(self.unequal):
            if excess is not None:
                expected = expected * self.along(axis, excess)
        return expected

    @property
    def is_new_layer(self) -> bool:
        """Whether it lies in a layer that was made as an identity."""
        return bool(self.layer.zeroed)

    @property
    def is_of_old_weights(self) -> bool:
        """Whether its numbers are old ones, neither those of an identity nor drawn."""
        return not self.is_new_layer and not self.layer.is_drawn

    @property
    def share(self) -> float:
        """What a layer that writes a share of the residual stream has of the old weight."""
        return self.layer.share if "residual" in self.grown.layout.written else 1.0

    @property
    def share_of_gradient(self) -> float:
        """What is left of its gradient there."""
        is_in_layer = self.grown.layer is not None
        return self.layer.share if is_in_layer and "residual" not in self.grown.layout.written else 1.0

    @property
    def has_no_moments(self) -> bool:
        """Whether the whole parameter was begun anew."""
        return self.is_new_layer or self.layer.is_anew

    def without_anew(self, spread: torch.Tensor) -> torch.Tensor:
        """What has the grown tensor's shape, zero wherever moments were begun anew."""
        for axis, marks in enumerate(self.anew):
            if marks.any():
                spread = spread.masked_fill(self.along(axis, marks), 0.0)
        return spread

    @property
    def is_padded(self) -> bool:
        """Whether the grown tensor has entries that copy nothing."""
        return any(kept is not None for kept in self.kept)

    def left_part(self, small: torch.Tensor) -> torch.Tensor:
        """The small tensor without the coordinates from which nothing comes."""
        for axis, left in enumerate(self.left):
            if left is not None:
                small = selected(small, axis, left)
        return small

    def copied_part(self, grown: torch.Tensor) -> torch.Tensor:
        """The grown tensor without the coordinates that copy nothing."""
        for axis, kept in enumerate(self.kept):
            if kept is not None:
                grown = selected(grown, axis, kept)
        return grown

    @property
    def in_axes(self) -> tuple[int, ...]:
        """The axes along which the tensor reads, that is, its inputs."""
        return tuple(index for index, axis in enumerate(self.grown.layout.axes) if axis.role == "in")

    @property
    def num_in_copies(self) -> float:
        """How many copies each input has, in the mean where inputs have different numbers of copies."""
        return float(np.prod([self.growths[axis].num_copies.mean() for axis in self.in_axes]))

    def spread(self, small: torch.Tensor) -> torch.Tensor:
        """The small tensor, read at the source of every grown coordinate; in the grown shape without padding."""
        for axis, growth in enumerate(self.growths):
            small = selected(small, axis, growth.source)
        return small

    def summed_inputs(self, grown: torch.Tensor) -> torch.Tensor:
        """The grown weight summed over the copies of its inputs, so that input axes have their small sizes."""
        for axis in self.in_axes:
            grown = _summed(grown, axis, self.growths[axis])
        return grown

    def rows_of(self, small: torch.Tensor) -> torch.Tensor:
        """The small tensor with copies of its outputs only, so that input axes keep their small sizes."""
        for axis, growth in enumerate(self.growths):
            if axis not in self.in_axes:
                small = selected(small, axis, growth.source)
        return small

    def along(self, axis: int, values: npt.NDArray[Any]) -> torch.Tensor:
        """A vector over one axis, broadcastable over the whole tensor."""
        shape = [1] * len(self.growths)
        shape[axis] = -1
        return torch.from_numpy(values).reshape(shape)

    def copy_classes(self) -> torch.Tensor:
        """A class number for every grown entry, int64: equal for entries whose coordinates have equal shares."""
        classes = torch.zeros(tuple(growth.num_new for growth in self.growths), dtype=torch.int64)
        for axis, (growth, shares) in enumerate(zip(self.growths, self.shares, strict=True)):
            classes = classes * len(shares) + self.along(axis, np.searchsorted(shares, growth.read))
        return classes

    def next_copy(self, grown: torch.Tensor) -> torch.Tensor:
        """The grown tensor with every coordinate exchanged for the next copy of its source, on all axes at once."""
        for axis, growth in enumerate(self.growths):
            grown = selected(grown, axis, next_copies(growth))
        return grown

    @property
    def has_copies(self) -> bool:
        """Whether any coordinate has more than one copy."""
        return any(bool((growth.num_copies > 1).any()) for growth in self.growths)


@dataclass(frozen=True, eq=False, kw_only=True)
class Pair:
    """Both checkpoints, and what each grown parameter comes from.

    `links`: by the grown parameter's name; `growths`: by space; `layers`: one for each layer of the grown model.
    """

    small: TrainingState
    grown: TrainingState
    links: Mapping[str, Link]
    growths: Mapping[str, Growth]
    layers: tuple[LayerOrigin, ...]

    @property
    def changes(self) -> frozenset[LayerKind]:
        """The kinds of new layers that change the function."""
        return frozenset(layer.kind for layer in self.layers if layer.kind in ("copy", "random", "ode"))

    @cached_property
    def is_padded(self) -> bool:
        """Whether there are new coordinates that copy nothing."""
        return any(link.is_padded for link in self.links.values())

    @cached_property
    def row_record(self) -> Mapping[str, Any] | None:
        """The record of the growth that gave the vocabulary or the positions other rows, if one did."""
        return row_record(self.small, self.grown)

    @property
    def is_stretched(self) -> bool:
        """Whether positions lie between the old ones, by the record."""
        return self.row_record is not None and self.row_record.get("new_positions") == "interpolate"

    @property
    def fresh_moments(self) -> str:
        """What the records say of second moments of entries that copy nothing: "zero", or the "mean" of old ones."""
        records = growths_since(self.small, self.grown)
        return str(next((record["fresh_moments"] for record in records if "fresh_moments" in record), "zero"))

    @property
    def are_moments_unscaled(self) -> bool:
        """Whether old moments stayed as they were, by the record."""
        return "unscaled" in moment_rules(self.small, self.grown)

    @property
    def has_other_decay(self) -> bool:
        """Whether weight decay follows learning rates by another rule than the trajectory's, by the record."""
        return any(one.get("wd_rule", "trajectory") != "trajectory" for one in growths_since(self.small, self.grown))

    @property
    def begins_anew(self) -> bool:
        """Whether moments of what was new were begun anew, by the record."""
        return any(has_begun_anew(record) for record in growths_since(self.small, self.grown))

    @cached_property
    def has_moved(self) -> bool:
        """Whether the global step changed."""
        return self.small.checkpoint.position.global_step != self.grown.checkpoint.position.global_step

    @cached_property
    def num_growths(self) -> int:
        """How many growths lie between the two checkpoints, at least 1: each rounds every entry once."""
        return max(1, len(growths_since(self.small, self.grown)))

    @cached_property
    def serves_parts(self) -> bool:
        """Whether copies serve different parts of what the old coordinates served."""
        return any(bool((one.read_squared > PARTS * one.read**2).any()) for one in self.growths.values())

    @cached_property
    def has_copies(self) -> bool:
        """Whether width was grown at all."""
        return any(link.has_copies for link in self.links.values())

    def small_tensor(self, link: Link) -> torch.Tensor:
        """The small weight as the model applies it, float64, with a gain's offset, without rows that went."""
        return link.left_part(whole(applied(self.small, link.small)))


def _summed(grown: torch.Tensor, axis: int, growth: Growth) -> torch.Tensor:
    """A tensor summed over the copies along one axis, in their order: run by run, or entry by entry."""
    if growth.is_identity:
        return grown
    shape = [*grown.shape]
    shape[axis] = growth.num_old
    total = torch.zeros(shape, dtype=grown.dtype)
    if len(growth.runs) * SHORTEST_RUN > growth.num_new:
        return total.index_add_(axis, torch.from_numpy(growth.source), grown)
    for run in growth.runs:
        length = run.stop - run.start
        total.narrow(axis, run.source, length).add_(grown.narrow(axis, run.start, length))
    return total


def _left_of(axis: Growth) -> IntVector | None:
    """The old coordinates from which something comes; None where all are, or all are copied in turn."""
    left = np.unique(axis.source[~axis.is_fresh])
    return None if len(left) == axis.num_old else left


def _num_summed(axis: Growth, role: Role) -> int:
    """The largest number of coordinates of which a sum over the copies of an input has a term."""
    return int(axis.num_copies.max()) if role == "in" else 1


def _excess(axis: Growth) -> FloatVector | None:
    """By how much squares exceed those of copies with equal gradients; None where they do nowhere."""
    are_parts = bool((axis.read_squared > PARTS * axis.read**2).any())
    return axis.read_squared / axis.read**2 if are_parts else None


def _of_left(axis: Growth, left: IntVector | None) -> Growth:
    """An axis without what copies nothing, and without old coordinates from which nothing comes."""
    if left is None and not axis.has_fresh:
        return axis
    source = axis.source[~axis.is_fresh]
    source = source if left is None else np.searchsorted(left, source)
    ones, num_old = np.ones(len(source)), axis.num_old if left is None else len(left)
    return Growth(source=source, write=ones, read=ones, num_old=num_old)


def applied(state: TrainingState, claimed: Claimed) -> LazyTensor:
    """A stored weight with the constant that the model adds to it, float64: some norms apply 1 + weight."""
    stored, offset = state.checkpoint.tensors[claimed.name], claimed.layout.offset
    return Made(stored.shape, torch.float64, lambda start, stop: stored.rows(start, stop).double() + offset)


@lru_cache(maxsize=256)
def next_copies(growth: Growth) -> IntVector:
    """For every new coordinate the next copy of its source, and the first copy for the last. Shape (n',)."""
    order = np.argsort(growth.source, kind="stable")
    firsts = np.searchsorted(growth.source[order], growth.source)
    return order[firsts + (growth.copy + 1) % growth.num_copies]
