"""A grown tensor beside the small one that it comes from, block by block: some small rows and all that copies them.

What is seen of a block is a `Link` of its coordinates alone, so that sums over copies, spreads and classes are those of
the whole tensor there. No entry is in two blocks. Where one coordinate of the first axis is larger than a block, as an
expert's matrix is, the second axis is cut too. How large blocks are changes no result: what is taken over all of them
is a largest value, a number of entries, or a sum of row sums (`row_sums`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TypeVar

import numpy as np
import torch

from ckptgrow.spaces.growth import Growth, IntVector
from ckptgrow.spaces.selection import selected
from ckptgrow.storage.tensors import LazyTensor, chunks, merged, unflattened
from ckptgrow.verification.pair import Link, Pair

ENTRIES = 2**18  # of the grown tensor in a block
FEW_RUNS = 8  # along one axis, that are looked at one by one


@dataclass(frozen=True, eq=False)
class Block:
    """Some coordinates of the small tensor along its first axis, or its first two, and those that copy them.

    `link`: of these coordinates alone; along the cut axes it has none that copy nothing. `old` and `new`: where they
    lie in both tensors, ascending, along each axis that is cut.
    """

    link: Link
    old: tuple[IntVector, ...]
    new: tuple[IntVector, ...]

    def small(self, tensor: LazyTensor) -> torch.Tensor:
        """The block of a small tensor, without coordinates from which nothing comes."""
        return self.link.left_part(part_at(tensor, self.old))

    def grown(self, tensor: LazyTensor) -> torch.Tensor:
        """The block of a grown tensor, without coordinates that copy nothing."""
        return self.link.copied_part(part_at(tensor, self.new))


@dataclass(frozen=True, eq=False)
class BlockTensors:
    """A block of two tensors, each read when it is first asked for."""

    block: Block
    tensors: Tensors

    @property
    def link(self) -> Link:
        """The link of the block's coordinates."""
        return self.block.link

    @cached_property
    def small(self) -> torch.Tensor:
        """The small numbers as the model applies them, float64."""
        return _applied(self.block.small(self.tensors.old), self.tensors.link.small.layout.offset)

    @cached_property
    def stored(self) -> torch.Tensor:
        """The grown numbers in their stored dtype."""
        return self.block.grown(self.tensors.new)

    @cached_property
    def grown(self) -> torch.Tensor:
        """The grown numbers as the model applies them, float64."""
        return _applied(self.stored, self.tensors.link.grown.layout.offset)


@dataclass(frozen=True, eq=False)
class Tensors:
    """A small and a grown tensor of a link: weights, averages of them, or moments."""

    link: Link
    old: LazyTensor
    new: LazyTensor

    @classmethod
    def of(cls, pair: Pair, link: Link) -> Tensors:
        """The stored weights of a link."""
        old, new = pair.small.checkpoint.tensors[link.small.name], pair.grown.checkpoint.tensors[link.grown.name]
        return cls(link, old, new)

    @classmethod
    def beside(cls, pair: Pair, link: Link, old: LazyTensor, new: LazyTensor) -> Tensors:
        """Entries of a parameter's records, which some optimizers keep as one vector each."""
        own = cls.of(pair, link)
        return cls(link, *(_as(one, weight.shape) for one, weight in ((old, own.old), (new, own.new))))

    def blocks(self) -> Iterator[Block]:
        """The blocks, in the order of the small rows."""
        return blocks_of(self.link, self.new.shape)

    def parts(self) -> Iterator[BlockTensors]:
        """The blocks of both tensors."""
        return (BlockTensors(block, self) for block in self.blocks())

    def has_entries(self) -> bool:
        """Whether the grown tensor holds anything but zeros, as the model applies it, where it copies something."""
        return any(bool(part.grown.any()) for part in self.parts())


def _as(tensor: LazyTensor, shape: tuple[int, ...]) -> LazyTensor:
    return unflattened(tensor, shape) if len(tensor.shape) == 1 < len(shape) else tensor


Entry = TypeVar("Entry")


def blocks_of(link: Link, shape: tuple[int, ...]) -> Iterator[Block]:
    """The blocks of a link whose grown tensor has this shape."""
    if not shape or 0 in shape:
        yield from () if shape else (Block(link, (), ()),)
        return
    if not link.growths:  # a tensor that no growth touches
        step = max(1, ENTRIES // math.prod(shape[1:]))
        for start in range(0, shape[0], step):
            rows = np.arange(start, min(start + step, shape[0]))
            yield Block(link, (rows,), (rows,))
        return
    length, most = math.prod(shape[1:]), _most_copies(link.growths[0])
    is_cut_twice = len(shape) > 2 and length * most > ENTRIES
    for some, old, new in _cut(link, 0, max(1, ENTRIES // (length * most))):
        if not is_cut_twice:
            yield Block(some, (old,), (new,))
            continue
        entries = len(new) * math.prod(shape[2:]) * _most_copies(link.growths[1])
        for part, inner_old, inner_new in _cut(some, 1, max(1, ENTRIES // entries)):
            yield Block(part, (old, inner_old), (new, inner_new))


def _cut(link: Link, axis: int, step: int) -> Iterator[tuple[Link, IntVector, IntVector]]:
    """The links of `step` small coordinates each along an axis, with the places of these and of all that copy them."""
    growth, left, kept = link.growths[axis], link.left[axis] if link.left else None, link.kept[axis]
    for one in _slices_of(growth, step):
        yield (
            _restricted(link, axis, one.growth, one.rows),
            one.old if left is None else left[one.old],
            one.rows if kept is None else kept[one.rows],
        )


@dataclass(frozen=True, eq=False)
class _Slice:
    """Some small coordinates of a growth, `old`, those that copy them, `rows`, and the growth of these alone."""

    old: IntVector
    rows: IntVector
    growth: Growth


@lru_cache(maxsize=32)  # most tensors of a model have the same few axes
def _slices_of(growth: Growth, step: int) -> tuple[_Slice, ...]:
    order = np.argsort(growth.source, kind="stable")
    ascending = growth.source[order]

    def cut(start: int) -> _Slice:
        stop = min(start + step, growth.num_old)
        rows = np.sort(order[slice(*np.searchsorted(ascending, [start, stop]).tolist())])
        return _Slice(np.arange(start, stop), rows, _some(growth, rows, start, stop))

    return tuple(map(cut, range(0, growth.num_old, step)))


def _some(growth: Growth, rows: IntVector, start: int, stop: int) -> Growth:
    return replace(
        growth,
        source=growth.source[rows] - start,
        write=growth.write[rows],
        read=growth.read[rows],
        num_old=stop - start,
        squared=None if growth.squared is None else growth.squared[rows],
        squared_written=None,
        template=None,
        silencing=None,
        written_as=None,
        read_as=None,
    )


def _restricted(link: Link, axis: int, growth: Growth, rows: IntVector) -> Link:
    unequal = link.unequal[axis]
    return replace(
        link,
        growths=_with(link.growths, axis, growth),
        kept=_with(link.kept, axis, None),
        left=_with(link.left, axis, None),
        anew=_with(link.anew, axis, link.anew[axis][rows]),
        unequal=_with(link.unequal, axis, None if unequal is None else unequal[rows]),
    )


def _with(entries: tuple[Entry, ...], axis: int, entry: Entry) -> tuple[Entry, ...]:
    return (*entries[:axis], entry, *entries[axis + 1 :])


def _most_copies(growth: Growth) -> int:
    return int(np.bincount(growth.source, minlength=1).max())


def windows_of(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Cuts all of a tensor as blocks are cut, without regard to copies: along its first axis, or its first two."""
    height, *sizes = shape
    length = math.prod(sizes)
    for rows in _slices(height, ENTRIES // length):
        if len(sizes) < 2 or length <= ENTRIES:
            yield (rows,)
            continue
        for inner in _slices(sizes[0], ENTRIES * sizes[0] // length):
            yield rows, inner


def _slices(size: int, step: int) -> Iterator[slice]:
    step = max(1, step)
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def part_at(tensor: LazyTensor, places: Sequence[IntVector]) -> torch.Tensor:
    """A tensor at some places along its first axis, or its first two."""
    if not places:
        return tensor.rows(0, 1)
    outer, *others = places
    if not others:
        return rows_at(tensor, outer)
    (inner,) = others
    rows = (outer[:, None] * tensor.shape[1] + inner).ravel()
    return rows_at(merged(tensor), rows).reshape(len(outer), len(inner), *tensor.shape[2:])


def rows_at(tensor: LazyTensor, places: IntVector) -> torch.Tensor:
    """Some rows, in the order of `places`; neighbours are read together."""
    if not len(places):
        return torch.empty((0, *tensor.shape[1:]), dtype=tensor.dtype)
    ends = [*(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(places)]
    starts = [0, *ends[:-1]]
    first = places[starts].tolist()
    parts = [tensor.rows(one, one + end - start) for one, start, end in zip(first, starts, ends, strict=True)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def copies(
    link: Link, grown: Sequence[torch.Tensor], small: Sequence[torch.Tensor]
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Blocks of grown tensors in parts, each with what it copies of the small ones: views, where copies lie in a few
    runs. Grown tensors may be broadcast, with one coordinate along an axis.
    """
    parts = [(tuple(grown), tuple(small))]
    for axis, growth in enumerate(link.growths):
        if growth.is_identity:
            continue
        if len(growth.runs) > FEW_RUNS:
            parts = [(some, tuple(selected(one, axis, growth.source) for one in others)) for some, others in parts]
            continue
        parts = [
            (
                tuple(_narrowed(one, axis, run.start, run.stop) for one in some),
                tuple(one.narrow(axis, run.source, run.stop - run.start) for one in others),
            )
            for some, others in parts
            for run in growth.runs
        ]
    return ((*some, *others) for some, others in parts)


def _narrowed(tensor: torch.Tensor, axis: int, start: int, stop: int) -> torch.Tensor:
    return tensor if tensor.shape[axis] == 1 else tensor.narrow(axis, start, stop - start)


def pieces(tensor: LazyTensor) -> Iterator[torch.Tensor]:
    """All of a tensor, some rows at a time; of what has more axes than two, with the first two as one."""
    tensor = merged(tensor) if len(tensor.shape) > 2 else tensor
    return (tensor.rows(start, stop) for start, stop in chunks(tensor))


def _applied(stored: torch.Tensor, offset: float) -> torch.Tensor:
    return stored.double() + offset if offset else stored.double()


def row_sums(tensor: torch.Tensor) -> list[float]:
    """The sums of rows along the last axis, of matrices along all but the first two: what is added up exactly
    (`exact_sum`) is the same however a tensor is cut.
    """
    if tensor.dim() < 2:
        return tensor.reshape(-1).tolist()
    return tensor.flatten(min(2, tensor.dim() - 1)).sum(-1).reshape(-1).tolist()


def exact_sum(values: Sequence[float]) -> float:
    """The sum, rounded once; NaN where it is of infinities that cancel."""
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):
        return math.nan
