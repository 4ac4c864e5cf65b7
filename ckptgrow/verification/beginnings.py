"""How entries that copy nothing begin, against the recipe that the history names.

zero     exactly zero: what silences a unit, the columns of drawn units, rows of the residual stream behind an RMSNorm
mean     the mean of the old rows: those of the residual stream behind a LayerNorm
copied   the old entry that the coordinate begins as, to one rounding
drawn    any numbers, as large as the old ones

An entry in two new coordinates is zero, or a mean, or drawn where either coordinate is, in this order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from ckptgrow.spaces.growth import BoolVector, Growth, IntVector
from ckptgrow.spaces.layout import Axis
from ckptgrow.spaces.selection import selected
from ckptgrow.verification.coordinates import growths_since
from ckptgrow.verification.history import UNITS
from ckptgrow.verification.pair import Link, Pair
from ckptgrow.verification.precision import rounding, smallest
from ckptgrow.verification.tensor_blocks import Tensors, exact_sum, part_at, row_sums, windows_of
from ckptgrow.verification.weights import WeightScale

Kind = Literal["zero", "mean", "drawn", "copied"]
ORDER: tuple[Kind, ...] = ("zero", "mean", "drawn", "copied")
RECIPES: Mapping[str, tuple[Kind, Kind]] = {  # how units are written where they need not be zero, and read
    "zero-copy": ("copied", "copied"),
    "zero-random": ("drawn", "drawn"),
    "random-zero": ("drawn", "zero"),
}
OF_UNITS, OF_STREAM = "random-zero", "zero-random"  # where the history names no recipe
ROUNDINGS = 2.0  # of the stored dtype
OF_FACTORS = 4.0  # the same where a factor was measured that is not 1, to one rounding or two itself
OF_MEANS = 8.0  # roundings, of the largest of the numbers that a mean is taken of
LIKE = 0.5  # relative, of the root mean squares of drawn entries and of a tensor that may lie in unequal pieces
SCATTER = 3.0  # standard deviations, in units of 1/√draws


@dataclass(frozen=True, kw_only=True)
class _Begun:
    """One grown parameter with new entries, and what it is judged by.

    `begins`: along each axis the old coordinate where each one begins; `places`: the kind that each coordinate is to
    be, as a place in `ORDER`, old ones beyond it: an entry has the least of its coordinates. `factor`: of old entries.
    """

    name: str
    tensors: Tensors
    factor: float
    begins: tuple[IntVector, ...]
    places: tuple[IntVector, ...]
    mean_axis: int | None

    def windows(self) -> Iterator[_Window]:
        """All of it, some entries at a time."""
        return (_Window(self, cut) for cut in windows_of(self.tensors.new.shape))

    @property
    def unit(self) -> float:
        """One rounding, relative."""
        return rounding(self.tensors.new.dtype)

    @property
    def least(self) -> float:
        """The smallest number."""
        return smallest(self.tensors.new.dtype)

    @property
    def is_bias(self) -> bool:
        """Whether it is one: nothing of these is drawn."""
        return self.tensors.link.grown.layout.kind == "bias"


@dataclass(frozen=True, eq=False)
class _Window:
    """Some of a parameter's entries; `cut`: along its first axes."""

    begun: _Begun
    cut: tuple[slice, ...]

    def _cut(self, vectors: tuple[IntVector, ...]) -> list[IntVector]:
        cut = [*self.cut, *[slice(None)] * (len(vectors) - len(self.cut))]
        return [one[part] for one, part in zip(vectors, cut, strict=True)]

    @cached_property
    def found(self) -> torch.Tensor:
        """The entries as the model applies them, float64."""
        tensors = self.begun.tensors
        places = [np.arange(one.start, one.stop) for one in self.cut]
        return part_at(tensors.new, places).double() + tensors.link.grown.layout.offset

    @cached_property
    def old(self) -> torch.Tensor:
        """The old entries where these begin, times the factor."""
        tensors, begins = self.begun.tensors, self._cut(self.begun.begins)
        old = part_at(tensors.old, begins[: len(self.cut)]).double() + tensors.link.small.layout.offset
        for axis, places in enumerate(begins[len(self.cut) :], start=len(self.cut)):
            old = selected(old, axis, places)
        return old * self.begun.factor

    @cached_property
    def kinds(self) -> torch.Tensor:
        """The kinds of the entries, as places in `ORDER`."""
        kinds = torch.full([1] * self.found.dim(), len(ORDER))
        for axis, places in enumerate(self._cut(self.begun.places)):
            kinds = torch.minimum(kinds, self.begun.tensors.link.along(axis, places))
        if self.begun.is_bias:
            kinds = torch.where(kinds == ORDER.index("drawn"), ORDER.index("zero"), kinds)
        return kinds.expand_as(self.found)


def beginning_problems(pair: Pair, weights: Mapping[str, WeightScale]) -> list[str]:
    """Entries that begin otherwise than the one growth between the two has them by its record; of several growths it
    cannot be told which entries are whose.
    """
    records = growths_since(pair.small, pair.grown)
    if len(records) != 1 or records[0].get("how") != "pad":
        return []
    recipe = records[0].get("fresh")
    named = "--how pad" if recipe is None else f"--fresh {recipe}"
    return [
        f"{problem}, as {named} has them"
        for name, link in pair.links.items()
        if link.is_padded and link.grown.layout.kind in ("matrix", "bias")
        for problem in _problems(_begun(pair, name, link, recipe, weights[name].factor or 1.0))
    ]


def _begun(pair: Pair, name: str, link: Link, recipe: str | None, factor: float) -> _Begun:
    has_means = pair.grown.family.padding is not None and pair.grown.family.padding.norm == "layer"
    mean_axis, begins, all_places = None, list[IntVector](), list[IntVector]()
    for position, axis in enumerate(link.grown.layout.axes):
        growth = axis.growth(pair.growths)
        places = _places(axis, growth, recipe)
        if has_means and axis.role == "out" and "residual" in axis.spaces and growth.has_fresh:
            mean_axis, places[places == ORDER.index("zero")] = position, ORDER.index("mean")
        begins.append(np.maximum(growth.begins_as, 0))
        all_places.append(places)
    return _Begun(
        name=name,
        tensors=Tensors.of(pair, link),
        factor=factor,
        begins=tuple(begins),
        places=tuple(all_places),
        mean_axis=mean_axis,
    )


def _places(axis: Axis, growth: Growth, recipe: str | None) -> IntVector:
    """The kind of every coordinate along one axis, as a place in `ORDER`; old ones are beyond it."""
    is_unit = bool(axis.spaces & set(UNITS))
    written, read = RECIPES[recipe or (OF_UNITS if is_unit else OF_STREAM)]
    plain: Kind = read if axis.role == "in" else written if is_unit else "zero"
    places = np.full(growth.num_new, ORDER.index(plain))
    if plain == "copied":
        places[growth.begins_as < 0] = ORDER.index("drawn")
    if axis.role == "out" and is_unit and read != "zero" and growth.silencing is not None:
        places[growth.silencing] = ORDER.index("zero")
    return np.where(growth.is_fresh, places, len(ORDER))


def _problems(one: _Begun) -> Iterator[str]:
    left = (ROUNDINGS if one.factor == 1 else OF_FACTORS) * one.unit
    num_filled = num_others = num_drawn = num_old = 0
    drawn, old = list[float](), list[float]()
    for window in one.windows():
        zeros, _, draws, copies = (window.kinds == place for place in range(len(ORDER)))
        num_filled += int(((window.found != 0) & zeros).sum())
        off = (window.found - window.old).abs() > left * window.old.abs() + one.least
        num_others += int((off & copies).sum())
        own = window.kinds == len(ORDER)  # each old entry once, where others may begin as one of them many times
        num_drawn, num_old = num_drawn + int(draws.sum()), num_old + int(own.sum())
        drawn += row_sums(window.found.masked_fill(~draws, 0.0).square())
        old += row_sums(window.old.masked_fill(~own, 0.0).square())
    if num_filled:
        yield f"{one.name}: {num_filled} new entries are not zero"
    if one.mean_axis is not None and (wrong := _num_wrong_means(one, one.mean_axis)):
        yield f"{one.name}: {wrong} new entries are not means of the old ones"
    if num_others:
        yield f"{one.name}: {num_others} new entries are not copies of the old ones"
    if num_drawn:
        size, found = math.sqrt(exact_sum(old) / num_old), math.sqrt(exact_sum(drawn) / num_drawn)
        if not abs(found - size) <= (LIKE + SCATTER / math.sqrt(num_drawn)) * size:
            yield f"{one.name}: {num_drawn} new entries are {found:.2g} in the mean, expected about {size:.2g}, drawn"


def _num_wrong_means(one: _Begun, axis: int) -> int:
    """How many entries of rows that are to be the mean of the old rows along an axis are not."""
    others = [places for place, places in enumerate(one.places) if place != axis]
    if not all((places != ORDER.index("zero")).any() for places in others):
        return 0
    is_new = one.places[axis] == ORDER.index("mean")
    shape = [size for place, size in enumerate(one.tensors.new.shape) if place != axis]
    sums, largest = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    for rows, beside in _along(one, axis, ~is_new):
        sums[beside] += rows.sum(0)
        largest[beside] = torch.maximum(largest[beside], rows.abs().amax(0))
    means, left = sums / int((~is_new).sum()), OF_MEANS * one.unit * largest + one.least
    return sum(int(((rows - means[beside]).abs() > left[beside]).sum()) for rows, beside in _along(one, axis, is_new))


def _along(one: _Begun, axis: int, marks: BoolVector) -> Iterator[tuple[torch.Tensor, tuple[slice, ...]]]:
    """Rows along an axis that are marked, some at a time, and where they lie along the others."""
    for window in one.windows():
        cut = [*window.cut, *[slice(None)] * (window.found.dim() - len(window.cut))]
        is_marked = torch.from_numpy(marks[cut[axis]])
        if is_marked.any():
            yield window.found.movedim(axis, 0)[is_marked], tuple(cut[:axis] + cut[axis + 1 :])
