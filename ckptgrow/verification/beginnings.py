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
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from ckptgrow.spaces.growth import Growth
from ckptgrow.spaces.layout import Axis
from ckptgrow.spaces.selection import selected
from ckptgrow.verification.coordinates import growths_since
from ckptgrow.verification.history import UNITS
from ckptgrow.verification.magnitude import power
from ckptgrow.verification.pair import Link, Pair, applied
from ckptgrow.verification.precision import rounding, smallest
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
OF_MEANS = 8.0  # roundings, of the largest of the numbers that a mean is taken of
LIKE = 0.5  # relative, of the root mean squares of drawn entries and of a tensor that may lie in unequal pieces
SCATTER = 3.0  # standard deviations, in units of 1/√draws


@dataclass(frozen=True, kw_only=True)
class _Begun:
    """One grown parameter with new entries: its numbers, the old ones where each coordinate begins, and the kind that
    each entry is to be, as a place in `ORDER`; old entries are beyond it.
    """

    name: str
    found: torch.Tensor
    old: torch.Tensor
    kinds: torch.Tensor
    mean_axis: int | None
    unit: float  # one rounding, relative
    least: float  # the smallest number


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
    old, found = applied(pair.small, link.small) * factor, applied(pair.grown, link.grown)
    kinds = torch.full([1] * found.dim(), len(ORDER))
    has_means = pair.grown.family.padding is not None and pair.grown.family.padding.norm == "layer"
    mean_axis = None
    for position, axis in enumerate(link.grown.layout.axes):
        growth = axis.growth(pair.growths)
        old = selected(old, position, np.maximum(growth.begins_as, 0))
        places = _places(axis, growth, recipe)
        if has_means and axis.role == "out" and "residual" in axis.spaces and growth.has_fresh:
            mean_axis, places[places == ORDER.index("zero")] = position, ORDER.index("mean")
        kinds = torch.minimum(kinds, link.along(position, places))
    if link.grown.layout.kind == "bias":
        kinds = torch.where(kinds == ORDER.index("drawn"), ORDER.index("zero"), kinds)
    dtype = pair.grown.checkpoint.tensors[name].dtype
    return _Begun(
        name=name,
        found=found,
        old=old,
        kinds=kinds.expand_as(found),
        mean_axis=mean_axis,
        unit=rounding(dtype),
        least=smallest(dtype),
    )


def _places(axis: Axis, growth: Growth, recipe: str | None) -> npt.NDArray[np.int64]:
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
    zeros, means, drawn, copies = (one.kinds == place for place in range(len(ORDER)))
    if wrong := int((one.found[zeros] != 0).sum()):
        yield f"{one.name}: {wrong} new entries are not zero"
    if one.mean_axis is not None and (wrong := _wrong_means(one, one.mean_axis, means)):
        yield f"{one.name}: {wrong} new entries are not means of the old ones"
    off = (one.found - one.old).abs() > ROUNDINGS * one.unit * one.old.abs() + one.least
    if wrong := int((off & copies).sum()):
        yield f"{one.name}: {wrong} new entries are not copies of the old ones"
    if num := int(drawn.sum()):
        size = math.sqrt(power(one.old) / one.old.numel())
        drawn_size = math.sqrt(power(one.found[drawn]) / num)
        if not abs(drawn_size - size) <= (LIKE + SCATTER / math.sqrt(num)) * size:
            yield f"{one.name}: {num} new entries are {drawn_size:.2g} in the mean, expected about {size:.2g}, drawn"


def _wrong_means(one: _Begun, axis: int, means: torch.Tensor) -> int:
    """How many entries of rows that are to be the mean of the old rows along an axis are not."""
    is_new = means.movedim(axis, 0).reshape(means.shape[axis], -1).any(1)
    rows = one.found.movedim(axis, 0)
    left = OF_MEANS * one.unit * rows[~is_new].abs().amax(0) + one.least
    return int(((rows[is_new] - rows[~is_new].mean(0)).abs() > left).sum())
