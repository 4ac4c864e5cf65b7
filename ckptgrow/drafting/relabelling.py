"""Relabelling the units of a space: where all tensors that write and read it follow, the function stays the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ckptgrow.spaces.growth import IntVector
from ckptgrow.spaces.layout import Axis, Layout

Orders = Mapping[str, IntVector]  # by space: the new order of its units


def order_of(axis: Axis, sizes: Mapping[str, int], orders: Orders) -> IntVector:
    """The order of an axis's coordinates that follows from those of its spaces. Shape (length of the axis,)."""
    found: list[IntVector] = []
    first = 0
    for part in axis.parts:
        lengths = [factor if isinstance(factor, int) else sizes[factor] for factor in part]
        places = first + np.arange(math.prod(lengths)).reshape(lengths)
        for position, factor in enumerate(part):
            if factor in orders:
                places = places.take(orders[str(factor)], position)
        found.append(places.ravel())
        first += math.prod(lengths)
    return np.concatenate(found)


def length_of(axis: Axis, sizes: Mapping[str, int]) -> int:
    """The length of an axis."""
    return sum(
        math.prod(factor if isinstance(factor, int) else sizes[factor] for factor in part) for part in axis.parts
    )


def relabelled(
    tensor: torch.Tensor, layout: Layout, sizes: Mapping[str, int], orders: Orders, left_out: Sequence[int] = ()
) -> torch.Tensor:
    """A tensor whose axes follow the new orders, but for the axes `left_out`."""
    for position, axis in enumerate(layout.axes):
        if position not in left_out and axis.spaces & orders.keys():
            tensor = tensor.index_select(position, torch.from_numpy(order_of(axis, sizes, orders)))
    return tensor


def drawn_order(size: int, draw: np.random.Generator) -> IntVector:
    """A new order of `size` units that leaves none, or nearly none, in its place."""
    order = np.roll(np.arange(size), 1)
    return order if size < 4 else order[draw.permutation(size)]


def places_of(axis: Axis, sizes: Mapping[str, int], space: str, *, only_marked: bool = False) -> torch.Tensor:
    """The places on an axis that lie at unit 0 of a space."""
    found: list[torch.Tensor] = []
    first = 0
    for part, marks in zip(axis.parts, axis.silencing, strict=True):
        lengths = [factor if isinstance(factor, int) else sizes[factor] for factor in part]
        is_there = torch.full(lengths, space in part and (any(marks) or not only_marked))
        for position, (factor, is_marked) in enumerate(zip(part, marks, strict=True)):
            at = lengths[position] - 1 if isinstance(factor, int) and is_marked and only_marked else 0
            if factor == space or (isinstance(factor, int) and is_marked and only_marked):
                others = torch.arange(lengths[position]) != at
                is_there.index_fill_(position, others.nonzero()[:, 0], False)
        found.append(first + is_there.flatten().nonzero()[:, 0])
        first += is_there.numel()
    return torch.cat(found)
