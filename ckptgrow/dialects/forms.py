"""What a row of a dialect does to tensors, both ways, a few rows at a time.

Every way of laying out is an order of rows: row i of the new tensor is row `row[i]` of tensor `source[i]`. Its inverse
is read off, so nothing is written twice. Matrices that are transposed go by bands of columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import torch

from ckptgrow.dialects.dialect import JOINING, Row
from ckptgrow.storage.tensors import LazyTensor, Made, Stored, whole
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
            made = torch.empty((stop - start, *shape[1:]), dtype=tensors[0].dtype)
            source, row = self.source[start:stop], self.row[start:stop]
            is_cut = (np.diff(source) != 0) | (np.abs(np.diff(row)) > self.reach)
            for places in np.split(np.arange(stop - start), np.flatnonzero(is_cut) + 1):
                wanted = row[places]
                first = int(wanted.min())
                found = tensors[int(source[places[0]])].rows(first, int(wanted.max()) + 1)
                made[int(places[0]) : int(places[-1]) + 1] = found[torch.from_numpy(wanted - first)]
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
def _in_thirds(heads: int, head: int) -> RowOrder:
    """Queries, keys and values from head after head to one after the other: (heads, 3, head) to (3, heads, head)."""
    row = np.arange(3 * heads * head).reshape(heads, 3, head).transpose(1, 0, 2).reshape(-1)
    return RowOrder(np.zeros_like(row), row)


ORDERS = {"rotary": _paired, "thirds": _in_thirds}


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


@dataclass(frozen=True)
class Form:
    """A row of a dialect in a model of some sizes; `shapes` are transformers' tensors', layer by layer where the row
    stacks them. `sizes` has those of heads, and the number of `layers`.
    """

    row: Row
    shapes: tuple[Shape, ...]
    sizes: Mapping[str, int]

    @property
    def is_cutting(self) -> bool:
        """Whether the entries of an optimizer must have their parameter's shape to follow."""
        return not self.row.is_renaming

    @cached_property
    def shape(self) -> Shape:
        """The shape of the trainer's tensor."""
        first, *_ = shapes = self.shapes[: len(self.row.parts)]
        if "transpose" in self.row.how:
            first = (first[1], first[0])
        inner = (sum(one[0] for one in shapes), *first[1:]) if self._is_joining else first
        return (self.sizes["layers"], *inner) if self.row.is_stacked else inner

    def theirs(self, ours: Sequence[LazyTensor], power: int = 1) -> LazyTensor:
        """The trainer's tensor from transformers'; `power` is that of the weight's scale by which an entry follows it:
        1 for a weight, −1 for a gradient, −2 for its square.
        """
        if self.row.is_stacked:
            return _stacked([self._layer_to_theirs(ours[at : at + self._num], power) for at in self._starts])
        return self._layer_to_theirs(ours, power)

    def ours(self, theirs: LazyTensor, power: int = 1) -> tuple[LazyTensor, ...]:
        """The reverse."""
        if self.row.is_stacked:
            layers = [_layer(theirs, index) for index in range(theirs.shape[0])]
            return tuple(one for layer in layers for one in self._layer_to_ours(layer, power))
        return self._layer_to_ours(theirs, power)

    @property
    def _num(self) -> int:
        return len(self.row.parts)

    @property
    def _starts(self) -> range:
        return range(0, self.sizes["layers"] * self._num, self._num)

    @property
    def _is_joining(self) -> bool:
        return any(word in JOINING for word in self.row.how)

    @property
    def _order(self) -> RowOrder:
        lengths = tuple(shape[0] for shape in self.shapes[: self._num])
        return _grouped(lengths, self.sizes["kv_heads"]) if "group" in self.row.how else _joined(lengths)

    def _layer_to_theirs(self, ours: Sequence[LazyTensor], power: int) -> LazyTensor:
        stepped = [
            self._stepped(tensor, part.steps, power, is_back=False)
            for tensor, part in zip(ours, self.row.parts, strict=True)
        ]
        made = self._order.of(stepped) if self._is_joining else stepped[0]
        return transposed(made) if "transpose" in self.row.how else made

    def _layer_to_ours(self, theirs: LazyTensor, power: int) -> tuple[LazyTensor, ...]:
        made = transposed(theirs) if "transpose" in self.row.how else theirs
        parts = [self._order.part(number).of([made]) for number in range(self._num)] if self._is_joining else [made]
        return tuple(
            self._stepped(tensor, part.steps[::-1], power, is_back=True)
            for tensor, part in zip(parts, self.row.parts, strict=True)
        )

    def _stepped(
        self, tensor: LazyTensor, steps: Sequence[tuple[str, ...]], power: int, *, is_back: bool
    ) -> LazyTensor:
        for word, argument in steps:
            if word in ORDERS:
                order = ORDERS[word](self.sizes[argument], self.sizes["head"])
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


def _stacked(layers: Sequence[LazyTensor]) -> LazyTensor:
    """Layers as one tensor, a layer a row."""
    shape = (len(layers), *layers[0].shape)
    return Made(shape, layers[0].dtype, lambda start, stop: torch.stack([whole(layer) for layer in layers[start:stop]]))


def _layer(stack: LazyTensor, index: int) -> LazyTensor:
    """One layer of a stack."""
    if isinstance(stack, Stored):
        offset = stack.offset + index * stack.stride[0] * stack.dtype.itemsize
        return replace(stack, offset=offset, shape=stack.shape[1:], stride=stack.stride[1:])
    return Made(stack.shape[1:], stack.dtype, lambda start, stop: stack.rows(index, index + 1)[0][start:stop])
