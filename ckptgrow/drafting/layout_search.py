"""Finds the order of the factors and parts of every axis, by relabelling units until the function does not see it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ckptgrow.drafting.axis_lengths import Sum
from ckptgrow.drafting.drafted_rows import DraftedRow
from ckptgrow.drafting.observed_model import EXACT, Observed
from ckptgrow.drafting.relabelling import Orders, drawn_order, order_of
from ckptgrow.spaces.layout import Axis, Factor, Parts

MOST_TRIES = 3000
HEADS = ("heads", "head")
AMBIGUOUS: Sum = ((1, ("residual",)),)
Place = tuple[int, int]  # a row's number, and its axis


@dataclass(eq=False, kw_only=True)
class Search:
    """Rows whose axes' lengths are known, the candidates for the order of each, and what was found of units."""

    observed: Observed
    rows: list[DraftedRow]
    sums: Mapping[str, tuple[Sum, ...]]  # by the name of a row's first parameter
    sizes: dict[str, int]
    is_head_derived: bool
    made: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])  # sums of spaces, by name
    units: list[str] = field(default_factory=list[str])
    served: dict[str, str] = field(default_factory=dict[str, str])
    unsure: list[str] = field(default_factory=list[str])
    candidates: dict[Place, list[Parts]] = field(default_factory=dict[Place, list[Parts]])

    def find(self, spans: Mapping[str, torch.Tensor]) -> None:
        """Gives every row its axes; what cannot be told is said in `unsure`. `spans`: what matrices read."""
        sides = self._sides(spans)
        for number, row in enumerate(self.rows):
            for axis, length in enumerate(self.sums[row.name]):
                is_residual = sides.get((number, axis), True)
                self.candidates[number, axis] = list(self._orders(length, is_residual))
            row.axes = [self.candidates[number, axis][0] for axis in range(len(self.sums[row.name]))]
        if not self.is_unseen({"residual": _order(self.sizes["residual"])}):
            self.unsure.append("which axes lie in the residual stream: relabelling it changes the logits")
        for space in self._spaces():
            self._fit(space)

    # Which axes lie in the residual stream, where heads times their size is as long.

    def _sides(self, spans: Mapping[str, torch.Tensor]) -> dict[Place, bool]:
        """For every axis as long as the residual stream whether it lies in it."""
        if not self.is_head_derived:
            return {}
        sides: dict[Place, bool] = {}
        open_rows: list[int] = []
        for number, row in enumerate(self.rows):
            lengths = self.sums[row.name]
            same = [axis for axis, one in enumerate(lengths) if one == AMBIGUOUS]
            if len(same) == 2 and len(lengths) == 2:
                open_rows.append(number)
        shared = {
            number
            for number in open_rows
            if any(
                _is_same_span(spans[self.rows[number].name], spans[self.rows[other].name])
                for other in range(len(self.rows))
                if other != number and self.rows[other].name in spans
            )
        }
        left = [number for number in open_rows if number not in shared]
        modules = {self.rows[number].module for number in open_rows}
        gains = [  # norms over all heads, inside of attention
            number
            for number, row in enumerate(self.rows)
            if row.kind in ("gain", "1+gain") and row.module in modules and self.sums[row.name] == (AMBIGUOUS,)
        ]
        for number in shared:
            sides |= self._with_sides(number, "written")
        ways = [*(("read", "written", "neither") for _ in left), *(("written", "neither") for _ in gains)]
        for choice in itertools.islice(itertools.product(*ways), MOST_TRIES):
            tried = {**sides}
            for number, side in zip([*left, *gains], choice, strict=True):
                tried |= self._with_sides(number, side)
            if self._is_residual(tried):
                return tried
        self.unsure.append("which side of square matrices lies in the residual stream")
        return sides

    def _with_sides(self, number: int, heads: str) -> dict[Place, bool]:
        """The sides of a square matrix, and of its bias: heads are `read`, `written`, or `neither`."""
        row = self.rows[number]
        if len(self.sums[row.name]) == 1:
            return {(number, 0): heads == "neither"}
        read = 1 if row.read is None else row.read
        is_residual = {read: heads != "read", 1 - read: heads != "written"}
        found = {(number, axis): one for axis, one in is_residual.items()}
        for other, one in enumerate(self.rows):
            if one.name == row.bias_name:
                found[other, 0] = is_residual[1 - read]
        return found

    def _is_residual(self, sides: Mapping[Place, bool]) -> bool:
        for number, row in enumerate(self.rows):
            row.axes = [
                next(iter(self._orders(length, sides.get((number, axis), True))))
                for axis, length in enumerate(self.sums[row.name])
            ]
        return self.is_unseen({"residual": _order(self.sizes["residual"])})

    # The orders of factors and parts.

    def _orders(self, length: Sum, is_residual: bool) -> Iterator[Parts]:
        """All orders of an axis's factors and parts, the usual ones first."""
        factored = self._factored(length)
        for terms in [length] if factored is None else [factored, length]:
            ways = [
                list(self._term(number, product, len(terms) > 1 or number > 1 or not is_residual))
                for number, product in terms
            ]
            arrangements = [
                tuple(chosen[place] for place in order)
                for chosen in itertools.product(*ways)
                for order in itertools.permutations(range(len(chosen)))
            ]
            yield from dict.fromkeys(arrangements)

    def _term(self, number: int, product: Sequence[str], is_part: bool) -> Iterator[tuple[Factor, ...]]:
        spaces: tuple[str, ...] = tuple(product)
        if spaces == ("residual",) and is_part and self.is_head_derived:
            spaces = HEADS
        factors: tuple[Factor, ...] = (*((number,) if number > 1 or not spaces else ()), *spaces)
        yield from sorted(itertools.permutations(factors), key=lambda order: [_rank(factor) for factor in order])

    def _factored(self, length: Sum) -> Sum | None:
        """A sum whose products have one space in common: its units, each with parts."""
        common = set(length[0][1]).intersection(*(set(product) for _, product in length))
        if len(length) < 2 or len(common) != 1:
            return None
        rest = [(number, tuple(one for one in product if one not in common)) for number, product in length]
        if any(len(product) > 1 for _, product in rest):
            return None
        parts = tuple(space for number, product in rest for space in product * number)
        if not parts or any(not product for _, product in rest):
            return None
        name = next(
            (known for known, spaces in self.made.items() if spaces == parts), "_and_".join(dict.fromkeys(parts))
        )
        self.made[name] = parts
        self.sizes[name] = sum(self.sizes[space] for space in parts)
        return ((1, (*common, name)),)

    # Units.

    def _spaces(self) -> list[str]:
        found = dict.fromkeys(space for row in self.rows for space in sorted(row.spaces, key=_rank))
        known = [one for one in found if one not in ("residual", "vocab", "position") and self.sizes[one] > 1]
        return sorted(known, key=lambda space: (space != "kv_heads", space != "heads"))

    def _fit(self, space: str) -> None:
        """Orders under which a space's units can change places, alone or with those that they serve."""
        for served in (None, *self._could_serve(space)):
            orders = self._orders_of(space, served)
            if self._fitted(orders):
                self.units.append(space)
                if served is not None:
                    self.served[space] = served
                return

    def _could_serve(self, space: str) -> list[str]:
        size = self.sizes[space]
        return [
            one
            for one in self._spaces()
            if one != space and self.sizes[one] % size == 0 and one in _near(space, self.rows)
        ]

    def _orders_of(self, space: str, served: str | None) -> Orders:
        outer = next((one for one, other in self.served.items() if other == space), None)
        if outer is not None:  # within the units that serve
            members = self.sizes[space] // self.sizes[outer]
            blocks = np.arange(self.sizes[outer])[:, None] * members + _order(members)
            return {space: blocks.ravel()}
        order = _order(self.sizes[space])
        if served is None:
            return {space: order}
        members = self.sizes[served] // self.sizes[space]
        return {space: order, served: (order[:, None] * members + np.arange(members)).ravel()}

    def _fitted(self, orders: Orders) -> bool:
        """Whether some orders of the axes that these concern leave the function as it is; keeps those that do."""
        places = [place for place, several in self.candidates.items() if _concerns(several, orders)]
        if not places:
            return False
        groups: list[dict[bytes, list[Parts]]] = []
        for place in places:
            found: dict[bytes, list[Parts]] = {}
            for parts in self.candidates[place]:
                found.setdefault(order_of(_axis(parts), self.sizes, orders).tobytes(), []).append(parts)
            groups.append(found)
        for chosen in _simplest_first([list(one.values()) for one in groups]):
            for (number, axis), several in zip(places, chosen, strict=True):
                self.rows[number].axes[axis] = several[0]
            if self.is_unseen(orders):
                self.candidates |= dict(zip(places, chosen, strict=True))
                return True
        for number, axis in places:
            self.rows[number].axes[axis] = self.candidates[number, axis][0]
        return False

    def is_unseen(self, orders: Orders) -> bool:
        """Whether the function stays the same where all rows follow these orders."""
        state: dict[str, torch.Tensor] = {}
        for row in self.rows:
            if row.spaces & orders.keys():
                for name in row.names:
                    value = self.observed.parameters[name].detach()
                    for axis, parts in enumerate(row.axes):
                        order = order_of(_axis(parts), self.sizes, orders)
                        value = value.index_select(axis, torch.from_numpy(order))
                    state[name] = value
        return bool(state) and self.observed.difference(state) <= EXACT


def _axis(parts: Parts) -> Axis:
    return Axis("out", parts, tuple((False,) * len(part) for part in parts))


def _order(size: int) -> np.ndarray:
    return drawn_order(size, np.random.default_rng(size))


def _rank(factor: Factor) -> int:
    """The usual order of factors: numbers, then what is many, then the sizes of those."""
    if isinstance(factor, int):
        return 0
    return 1 if factor.endswith(("heads", "groups", "experts")) else 2


def _concerns(several: Sequence[Parts], orders: Orders) -> bool:
    return any(factor in orders for part in several[0] for factor in part)


def _near(space: str, rows: Iterable[DraftedRow]) -> set[str]:
    """Spaces in one tensor, or one module, with a space."""
    modules = {row.template.rsplit(".", 2)[0] for row in rows if space in row.spaces}
    return {one for row in rows if row.template.rsplit(".", 2)[0] in modules for one in row.spaces}


def _simplest_first(groups: Sequence[Sequence[list[Parts]]]) -> Iterator[tuple[list[Parts], ...]]:
    """Choices of one of each group, those first that take few others than the first."""
    numbers = itertools.product(*(range(len(one)) for one in groups))
    if math.prod(len(one) for one in groups) <= 50 * MOST_TRIES:
        numbers = iter(sorted(numbers, key=sum))
    for chosen in itertools.islice(numbers, MOST_TRIES):
        yield tuple(one[place] for one, place in zip(groups, chosen, strict=True))


def _is_same_span(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two bases span the same, or one a part of the other; shape (length, dimensions)."""
    if one.shape[0] != other.shape[0] or 0 in (one.shape[1], other.shape[1]):
        return False
    values = torch.linalg.svdvals(torch.cat([one, other], 1))
    return int((values > 1e-9 * values.max()).sum()) <= max(one.shape[1], other.shape[1])
