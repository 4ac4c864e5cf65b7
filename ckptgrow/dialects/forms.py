"""What a row of a dialect does to tensors, both ways, a few rows at a time.

Every way of laying out is an order of rows: row i of the new tensor is row `row[i]` of tensor `source[i]`. Its inverse
is read off, so nothing is written twice. Matrices that are transposed go by bands of columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import torch

from ckptgrow.dialects.dialect import JOINING, Row
from ckptgrow.storage.stacks import Stack, is_divisible, row_of
from ckptgrow.storage.tensors import LazyTensor, Made
from ckptgrow.storage.transposed import transposed

Shape = tuple[int, ...]
IntVector = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RowOrder:
    """See the module's head; rows that lie at most `reach` apart are read together."""

    source: IntVector
    row: IntVector
    reach: int = 1

    def of(self, tensors: Sequence[LazyTensor]) -> LazyTensor:
        """The tensor that this order makes of others, which agree in all but their first axis."""
        shape = (len(self.row), *tensors[0].shape[1:])

        def rows(start: int, stop: int) -> torch.Tensor:
            made = torch.empty((stop - start, *shape[1:]), dtype=tensors[0].dtype)  # memory that is touched as it fills
            source, row = self.source[start:stop], self.row[start:stop]
            is_cut = (np.diff(source) != 0) | (np.abs(np.diff(row)) > self.reach)
            for places in np.split(np.arange(stop - start), np.flatnonzero(is_cut) + 1):
                wanted = row[places]
                first = int(wanted.min())
                found = tensors[int(source[places[0]])].rows(first, int(wanted.max()) + 1)
                if bool((np.diff(wanted) != 1).any()):
                    found = found[torch.from_numpy(wanted - first)]
                if len(found) == stop - start:
                    return found
                made[int(places[0]) : int(places[-1]) + 1] = found
            return made

        return Made(shape, tensors[0].dtype, rows)

    def part(self, number: int) -> RowOrder:
        """The order that makes one of the others again."""
        places = np.flatnonzero(self.source == number)
        row = np.empty_like(places)
        row[self.row[places]] = places
        return RowOrder(np.zeros_like(row), row, self.reach)


@lru_cache(maxsize=64)
def _paired(heads: int, head: int) -> RowOrder:
    """Each head's rows from halves to pairs: (heads, 2, head / 2) to (heads, head / 2, 2)."""
    row = np.arange(heads * head).reshape(heads, 2, head // 2).transpose(0, 2, 1).reshape(-1)
    return RowOrder(np.zeros_like(row), row, head)


@lru_cache(maxsize=64)
def _joined(lengths: tuple[int, ...]) -> RowOrder:
    """One tensor after the other."""
    rows = [np.arange(length) for length in lengths]
    return RowOrder(np.repeat(np.arange(len(lengths)), lengths), np.concatenate(rows))


@lru_cache(maxsize=64)
def _grouped(lengths: tuple[int, ...], groups: int) -> RowOrder:
    """A group's share of each tensor after the other, group after group."""
    rows = [np.arange(length).reshape(groups, -1) for length in lengths]
    sources = [np.full_like(one, number) for number, one in enumerate(rows)]
    return RowOrder(np.concatenate(sources, axis=1).reshape(-1), np.concatenate(rows, axis=1).reshape(-1))


class LastRead:
    """A tensor of which one row of the first axis is held, for who reads it in places, one after the other; it is let
    go with its end, which `read` tells.
    """

    def __init__(self, old: LazyTensor) -> None:
        self.old = old
        self._held: tuple[int, torch.Tensor] | None = None

    @property
    def shape(self) -> Shape:
        """See LazyTensor."""
        return self.old.shape

    @property
    def dtype(self) -> torch.dtype:
        """See LazyTensor."""
        return self.old.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        return self.old.rows(start, stop)

    def row(self, index: int) -> LazyTensor:
        """See `row_of`."""
        return Made(self.shape[1:], self.dtype, lambda start, stop: self._read(index, start, stop))

    def _read(self, index: int, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of a row. Threads may read at once: what is held is exchanged together."""
        held = self._held
        if held is None or held[0] != index:
            held = index, self.old.rows(index, index + 1)[0]
        self._held = None if stop == len(held[1]) else held
        return held[1][start:stop]


def _rotary(sizes: Mapping[str, int], space: str) -> RowOrder:
    return _paired(sizes[space], sizes["head"])


def _ungrouped(sizes: Mapping[str, int], space: str) -> RowOrder:
    """Queries, keys and values from group after group to one after the other; a group is one of the space."""
    groups, head = sizes[space], sizes["head"]
    lengths = (sizes["heads"] * head, groups * head, groups * head)
    grouped = _grouped(lengths, groups)
    row = np.argsort(np.cumsum((0, *lengths[:-1]))[grouped.source] + grouped.row)
    return RowOrder(np.zeros_like(row), row)


ORDERS = {"rotary": _rotary, "thirds": _ungrouped, "groups": _ungrouped}


@dataclass(frozen=True)
class Form:
    """A row of a dialect in a model of some sizes; `shapes` are transformers' tensors', layer by layer where the row
    stacks them. `sizes` has those of heads, and the numbers of `layers` and `experts`.

    On one side there is one tensor, on the other are its parts, expert after expert where there are experts: which
    side is the trainer's, the row says.
    """

    row: Row
    shapes: tuple[Shape, ...]
    sizes: Mapping[str, int]

    @property
    def is_cutting(self) -> bool:
        """Whether the entries of an optimizer must have their parameter's shape to follow."""
        return not self.row.is_renaming

    @cached_property
    def shapes_of_theirs(self) -> tuple[Shape, ...]:
        """The shapes of the trainer's tensors."""
        first, *_ = self.shapes
        if self.row.is_apart:
            *_, columns = self._turned(first[1:] if self._is_stacked else first)
            return tuple((length, columns) for length in self._lengths) * self._num_stacked
        rest = self._turned(first)[1:]
        inner = (sum(self._lengths), *rest) if self._is_joining else self._turned(first)
        return ((self._num_stacked, *inner) if self._is_stacked else inner,)

    def theirs(self, ours: Sequence[LazyTensor], power: int = 1) -> tuple[LazyTensor, ...]:
        """The trainer's tensors from transformers'; `power` is that of the weight's scale by which an entry follows it:
        1 for a weight, −1 for a gradient, −2 for its square.
        """
        if self.row.is_apart:
            return self._apart(ours[0] if is_divisible(ours[0]) else LastRead(ours[0]), power)
        return (self._one(ours, power),)

    def ours(self, theirs: Sequence[LazyTensor], power: int = 1) -> tuple[LazyTensor, ...]:
        """The reverse."""
        return (self._one(theirs, power),) if self.row.is_apart else self._apart(theirs[0], power)

    @property
    def _num(self) -> int:
        """The number of parts in a layer or an expert."""
        return len(self.row.names if self.row.is_apart else self.row.parts)

    @property
    def _is_stacked(self) -> bool:
        return self.row.is_stacked or "experts" in self.row.how

    @property
    def _num_stacked(self) -> int:
        return self.sizes["layers" if self.row.is_stacked else "experts"] if self._is_stacked else 1

    @property
    def _is_joining(self) -> bool:
        return any(word in JOINING for word in self.row.how)

    def _turned(self, shape: Shape) -> Shape:
        return (shape[1], shape[0]) if "transpose" in self.row.how else shape

    @cached_property
    def _lengths(self) -> tuple[int, ...]:
        """The rows of each part."""
        if not self.row.is_apart:
            return tuple(shape[0] for shape in self.shapes[: self._num])
        first = self.shapes[0]
        rows = self._turned(first[1:] if self._is_stacked else first)[0]
        shares = [self.sizes[space] if space else 1 for space in self.row.shares]
        return tuple(rows * share // sum(shares) for share in shares)

    @property
    def _order(self) -> RowOrder:
        return _grouped(self._lengths, self.sizes["kv_heads"]) if "group" in self.row.how else _joined(self._lengths)

    @property
    def _steps(self) -> Sequence[tuple[tuple[str, ...], ...]]:
        return [()] * self._num if self.row.is_apart else [part.steps for part in self.row.parts]

    def _one(self, parts: Sequence[LazyTensor], power: int) -> LazyTensor:
        """One tensor of its parts."""
        if not self._is_stacked:
            return self._layer_of(parts, power)
        starts = range(0, self._num_stacked * self._num, self._num)
        return Stack([self._layer_of(parts[at : at + self._num], power) for at in starts])

    def _apart(self, one: LazyTensor, power: int) -> tuple[LazyTensor, ...]:
        """The parts of one tensor."""
        if not self._is_stacked:
            return self._parts_of(one, power)
        layers = [row_of(one, index) for index in range(one.shape[0])]
        return tuple(part for layer in layers for part in self._parts_of(layer, power))

    def _layer_of(self, parts: Sequence[LazyTensor], power: int) -> LazyTensor:
        stepped = [
            self._stepped(tensor, steps, power, is_back=False) for tensor, steps in zip(parts, self._steps, strict=True)
        ]
        made = self._order.of(stepped) if self._is_joining else stepped[0]
        return transposed(made) if "transpose" in self.row.how else made

    def _parts_of(self, layer: LazyTensor, power: int) -> tuple[LazyTensor, ...]:
        made = transposed(layer) if "transpose" in self.row.how else layer
        parts = [self._order.part(number).of([made]) for number in range(self._num)] if self._is_joining else [made]
        return tuple(
            self._stepped(tensor, steps[::-1], power, is_back=True)
            for tensor, steps in zip(parts, self._steps, strict=True)
        )

    def _stepped(
        self, tensor: LazyTensor, steps: Sequence[tuple[str, ...]], power: int, *, is_back: bool
    ) -> LazyTensor:
        for word, argument in steps:
            if word in ORDERS:
                order = ORDERS[word](self.sizes, argument)
                tensor = (order.part(0) if is_back else order).of([tensor])
            elif word == "times":
                tensor = _scaled(tensor, float(argument) ** (-power if is_back else power))
            elif power == 1:  # what is added to a weight is not part of its gradient
                tensor = _shifted(tensor, -float(argument) if is_back else float(argument))
        return tensor


def _scaled(old: LazyTensor, factor: float) -> LazyTensor:
    """A tensor times a number, computed in float64 and rounded once."""
    return Made(old.shape, old.dtype, lambda *rows: (old.rows(*rows).double() * factor).to(old.dtype))


def _shifted(old: LazyTensor, constant: float) -> LazyTensor:
    """A tensor plus a number, computed in float64 and rounded once."""
    return Made(old.shape, old.dtype, lambda *rows: (old.rows(*rows).double() + constant).to(old.dtype))
