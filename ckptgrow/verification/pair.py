"""The small and the grown checkpoint side by side: which tensor, and which of its coordinates, comes from which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ckptgrow.errors import RequestError
from ckptgrow.spaces.growth import Growth, IntVector, copies, identity, padded, product
from ckptgrow.spaces.layers import LayerKind
from ckptgrow.spaces.selection import selected
from ckptgrow.state.claim import Claimed
from ckptgrow.state.opening import TrainingState
from ckptgrow.storage.tensors import whole


@dataclass(frozen=True)
class LayerOrigin:
    """The old layer that a grown layer is or was made from, as what, and the kinds of identities that its making, and
    that of the layers between, set to zero.
    """

    source: int
    kind: LayerKind
    zeroed: frozenset[LayerKind] = frozenset()


@dataclass(frozen=True, eq=False)
class Link:
    """One grown parameter, the small one that it comes from, and the copies along each axis."""

    grown: Claimed
    small: Claimed
    growths: tuple[Growth, ...]  # one a stored axis; only sources and copies are used, never write and read
    kept: tuple[IntVector | None, ...]  # along each axis the coordinates that do not copy nothing; None: all
    zeroed: frozenset[LayerKind] = frozenset()  # the kinds of identities that its layer was made as
    ratios: frozenset[float] = frozenset({1.0})  # of new to old sizes along the axes, one a class of copies

    @classmethod
    def of(
        cls, grown: Claimed, small: Claimed, growths: Mapping[str, Growth], zeroed: frozenset[LayerKind] = frozenset()
    ) -> Link:
        """The link by the growths of the spaces."""
        axes = [axis.growth(growths) for axis in grown.layout.axes]
        kept = tuple(np.flatnonzero(~axis.is_fresh) if axis.has_fresh else None for axis in axes)
        copied = tuple(identity(axis.num_old) if axis.has_fresh else axis for axis in axes)
        ratios = {float(ratio) for axis in copied for ratio in np.unique(1 / axis.read)}
        ratios |= {axis.num_new / axis.num_old for axis in axes if axis.has_fresh}
        return cls(grown, small, copied, kept, zeroed, frozenset(ratios))

    @property
    def is_new_layer(self) -> bool:
        """Whether it lies in a layer that was made as an identity."""
        return bool(self.zeroed)

    @property
    def is_padded(self) -> bool:
        """Whether the grown tensor has entries that copy nothing."""
        return any(kept is not None for kept in self.kept)

    def copied_part(self, grown: torch.Tensor) -> torch.Tensor:
        """The grown tensor without the coordinates that copy nothing."""
        for axis, kept in enumerate(self.kept):
            if kept is not None:
                grown = selected(grown, axis, kept)
        return grown

    @property
    def in_axes(self) -> tuple[int, ...]:
        """Axes along which the tensor reads."""
        return tuple(index for index, axis in enumerate(self.grown.layout.axes) if axis.role == "in")

    @property
    def num_in_copies(self) -> float:
        """Copies of the inputs, where they are equally many; else their mean."""
        return float(np.prod([self.growths[axis].num_copies.mean() for axis in self.in_axes]))

    @property
    def num_terms(self) -> int:
        """The most grown entries whose sum is a small one."""
        return int(np.prod([self.growths[axis].num_copies.max() for axis in self.in_axes]))

    def spread(self, small: torch.Tensor) -> torch.Tensor:
        """The small tensor at every grown coordinate's source."""
        for axis, growth in enumerate(self.growths):
            small = selected(small, axis, growth.source)
        return small

    def summed_inputs(self, grown: torch.Tensor) -> torch.Tensor:
        """The grown weight summed over the copies of its inputs, at the small input coordinates."""
        for axis in self.in_axes:
            growth = self.growths[axis]
            shape = [*grown.shape]
            shape[axis] = growth.num_old
            total = torch.zeros(shape, dtype=grown.dtype)
            grown = total.index_add_(axis, torch.from_numpy(growth.source), grown)
        return grown

    def rows_of(self, small: torch.Tensor) -> torch.Tensor:
        """The small tensor with every output coordinate's copies, inputs as they were."""
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
        """For every grown entry a number that is equal where its coordinates have equal shares of their sources."""
        classes = torch.zeros(tuple(growth.num_new for growth in self.growths), dtype=torch.int64)
        for axis, growth in enumerate(self.growths):
            _, index = np.unique(growth.read, return_inverse=True)
            classes = classes * (int(index.max()) + 1) + self.along(axis, index.astype(np.int64))
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


@dataclass(frozen=True, eq=False)
class Pair:
    """Both checkpoints and their links, by the grown parameter's name."""

    small: TrainingState
    grown: TrainingState
    links: Mapping[str, Link]
    growths: Mapping[str, Growth]
    layers: tuple[LayerOrigin, ...]

    @cached_property
    def is_padded(self) -> bool:
        """Whether there are new coordinates that copy nothing."""
        return any(link.is_padded for link in self.links.values())

    @property
    def fresh_moments(self) -> str:
        """What second moments of entries that copy nothing are by the record: "zero", or a "mean" of old ones."""
        records = growths_since(self.small, self.grown)
        return str(next((record["fresh_moments"] for record in records if "fresh_moments" in record), "zero"))

    @cached_property
    def has_moved(self) -> bool:
        """Whether the schedule's step is another."""
        return self.small.checkpoint.global_step != self.grown.checkpoint.global_step

    @cached_property
    def num_growths(self) -> int:
        """How many growths lie between the two, each of which rounds once; at least 1."""
        return max(1, len(growths_since(self.small, self.grown)))

    @cached_property
    def has_copies(self) -> bool:
        """Whether width was grown at all."""
        return any(link.has_copies for link in self.links.values())

    def small_tensor(self, link: Link) -> torch.Tensor:
        """The small weight as the model applies it, float64."""
        return applied(self.small, link.small)

    def grown_tensor(self, link: Link) -> torch.Tensor:
        """The grown weight as the model applies it, float64, without entries that copy nothing."""
        return link.copied_part(applied(self.grown, link.grown))


def applied(state: TrainingState, claimed: Claimed) -> torch.Tensor:
    """A stored weight with what the model adds to it, float64."""
    return whole(state.checkpoint.tensors[claimed.name]).double() + claimed.layout.offset


def growths_between(small: TrainingState, grown: TrainingState) -> dict[str, Growth]:
    """The copies in every space, from the two configs' sizes and whether the record says that it was padded.

    Raises RequestError for a pair in which something shrank, or that was grown in several ways.
    """
    old, new = (state.architecture.sizes for state in (small, grown))
    shrunk = [space for space in old if new[space] < old[space]]
    if shrunk:
        raise RequestError(
            f"{grown.where}: {shrunk[0]} is {new[shrunk[0]]}, expected at least {old[shrunk[0]]} as in {small.where}; "
            "give the small checkpoint first"
        )
    grown_by = {record.get("how") for record in growths_since(small, grown)}
    if "pad" in grown_by:
        if len(grown_by) > 1:
            raise RequestError(
                f"{grown.where}: was grown by {' and '.join(sorted(map(str, grown_by)))}, expected one kind of growth "
                f"since {small.where}; verify each on its own"
            )
        return {space: padded(old[space], new[space], "zero", read_drawn=True) for space in old}
    growths = {space: identity(size) for space, size in old.items()}
    sizes = old
    for larger in (*_sizes_between(small, grown), new):
        step = _copies(sizes, larger)
        growths = {space: _composed(growths[space], step[space]) for space in old}
        sizes = larger
    return growths


def _copies(old: Mapping[str, int], new: Mapping[str, int]) -> dict[str, Growth]:
    """The copies of one growth, from the sizes before and after it."""
    growths = {space: copies(old[space], new[space]) for space in old}
    if "kv_heads" in old and new["heads"] % new["kv_heads"] == 0:  # every group of queries holds its own copies
        members, new_members = (sizes["heads"] // sizes["kv_heads"] for sizes in (old, new))
        if new_members >= members:
            growths["heads"] = product([growths["kv_heads"], copies(members, new_members)])
    return growths


def _composed(first: Growth, then: Growth) -> Growth:
    """One growth after another: the copies of copies."""
    if first.is_identity:
        return then
    return Growth(first.source[then.source], np.ones(then.num_new), first.read[then.source] * then.read, first.num_old)


def _sizes_between(small: TrainingState, grown: TrainingState) -> list[dict[str, int]]:
    """The sizes after each growth since the small checkpoint but the last, as the records tell them.

    Copies of copies lie otherwise than copies at once; a record that tells wrong sizes makes the weights differ.
    """
    found = [record["sizes"] for record in growths_since(small, grown)[:-1] if isinstance(record.get("sizes"), dict)]
    spaces = small.architecture.sizes
    return [{space: int(sizes.get(space, size)) for space, size in spaces.items()} for sizes in found]


def growths_since(small: TrainingState, grown: TrainingState) -> Sequence[Mapping[str, Any]]:
    """The records of the growths that lie between the two."""
    return grown.checkpoint.history[len(small.checkpoint.history) :]


def next_copies(growth: Growth) -> IntVector:
    """For every new coordinate the next copy of its source, the last one's being the first. Shape (n',)."""
    order = np.argsort(growth.source, kind="stable")
    firsts = np.searchsorted(growth.source[order], growth.source)
    return order[firsts + (growth.copy + 1) % growth.num_copies]
