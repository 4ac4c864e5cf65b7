"""How the copies are told apart, read from the weights, against what the history says.

none     every copy has an even share of the weight, or (`diagonal`) one copy, the same for all rows of a copy
split    every entry is dealt out by the same two shares, as unequal as the recorded spread says (see `shares`)
noise    anything else, of the recorded strength: its root mean square in units of the matrix's
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ckptgrow.spaces.selection import selected
from ckptgrow.verification.history import Declared
from ckptgrow.verification.magnitude import power
from ckptgrow.verification.pair import Link, Pair
from ckptgrow.verification.precision import rounding, smallest
from ckptgrow.verification.shares import Part, distance_from_shares, measured_strength
from ckptgrow.verification.weights import WeightScale

ROUNDINGS = 4  # of stored weights
OF_SUMS = 1e-13  # of factors and spreads that are measured over a whole weight, in float64
ENTRIES = 2**22  # that are compared at a time
LIKE = 0.1  # relative, of the strength of drawn terms over a whole model
SCATTER = 3.0  # standard deviations, in units of 1/√draws, of the strength of few


@dataclass(frozen=True, kw_only=True)
class _Shares:
    """How one weight is shared out among the copies that it reads.

    `kind`: "even"; "diagonal", each copy of the outputs reading one copy of the inputs; "dealt", entry by entry;
    "other". `strength` is the root mean square of what even shares, or diagonal ones, leave, over the small weight's.
    `spread` is half the difference of the two shares where it is dealt out, known up to `uncertainty`.
    `can_be_diagonal` tells whether both sides have equally many copies.
    """

    kind: str
    strength: Mapping[str, float]
    spread: float
    uncertainty: float
    num_entries: int
    can_be_diagonal: bool


def separation_problems(pair: Pair, weights: Mapping[str, WeightScale], declared: Declared) -> list[str]:
    """Where the history's `how`, `separate` and `noise` are not what the weights show, in sentences.

    After several growths in width the weights only show whether anything separates the copies.
    """
    widths = [one for one in declared.records if "separate" in one]
    found = list(_measured(pair, weights))
    if not found or not widths or any(one.get("how") == "pad" for one in widths):
        return []
    kinds = {one.kind for one in found}
    shown = "noise" if "other" in kinds else "split" if "dealt" in kinds else "none"
    if len(widths) == 1:
        return list(_of_one(widths[0], shown, found))
    named = {str(one.get("separate")) for one in widths}
    if shown != "none" or named == {"none"}:
        return []
    return [f"the history says that copies are separated by {' and '.join(sorted(named))}, but the weights show none"]


def _of_one(record: Mapping[str, Any], shown: str, found: list[_Shares]) -> Iterator[str]:
    separate, how, strength, spread = (record.get(key) for key in ("separate", "how", "noise", "spread"))
    if separate != shown:
        yield f"the history says that copies are separated by {separate}, but the weights show {shown}"
        return
    is_diagonal = any(one.kind == "diagonal" for one in found)
    if separate == "none" and (is_diagonal or any(one.can_be_diagonal for one in found)):
        as_shown = "diagonal" if is_diagonal else "tile"
        if how != as_shown:
            yield f"the history says how {how}, but the weights show {as_shown}"
    if separate == "split" and isinstance(spread, float | int):
        apart = [one.spread for one in found if one.kind == "dealt" and abs(one.spread - spread) > one.uncertainty]
        if apart:
            yield f"the history says spread {spread:g}, but the weights have {apart[0]:.3g}"
    if separate == "noise" and isinstance(strength, float | int):
        squares = [one.strength[_base(one, how)] ** 2 * one.num_entries for one in found]
        num_draws = sum(one.num_entries for one in found)
        measured = math.sqrt(sum(squares) / num_draws)
        if not abs(measured - strength) <= (LIKE + SCATTER / math.sqrt(num_draws)) * strength:
            yield f"the history says noise {strength:g}, but the weights have {measured:.2g}"


def _base(one: _Shares, how: object) -> str:
    """The shares to which noise was added: "even" or "diagonal".

    Experts that a file holds one by one are seen here as one tensor, so the smaller strength decides.
    """
    if how == "diagonal" and one.can_be_diagonal:
        return "diagonal"
    return min(one.strength, key=one.strength.__getitem__) if how == "diagonal" else "even"


def _measured(pair: Pair, weights: Mapping[str, WeightScale]) -> Iterator[_Shares]:
    for name, link in pair.links.items():
        factor = weights[name].factor if name in weights else None
        is_copied = any(int(link.growths[axis].num_copies.max()) > 1 for axis in link.in_axes)
        is_plain = not link.is_new_layer and not link.grown.layout.offset
        if factor and is_copied and is_plain and bool(pair.small_tensor(link).any()):  # zeros show no shares
            yield _shares(pair, link, factor, pair.grown.checkpoint.tensors[name].dtype)


def _shares(pair: Pair, link: Link, factor: float, dtype: torch.dtype) -> _Shares:
    unit = pair.num_growths * rounding(dtype)
    least = pair.num_growths * smallest(dtype)
    small, grown = pair.small_tensor(link), pair.grown_tensor(link)
    spread = measured_strength(part for _, part in _parts(link, factor * small, grown))
    is_diagonal = _diagonal(link).expand(grown.shape)
    num_entries, fits = 0, {"even": True, "diagonal": True, "dealt": True}
    squares = {"even": 0.0, "diagonal": 0.0}
    for rows, (found, single, counts) in _parts(link, factor * small, grown):
        copied = counts > 1
        num_entries += int(copied.sum())
        left = {
            "even": found - single / counts,
            "diagonal": found - torch.where(is_diagonal[rows], single, 0.0),
            "dealt": distance_from_shares((found, single, counts), spread),
        }
        limit = ROUNDINGS * (unit + OF_SUMS) * single.abs() + least
        fits = {kind: fits[kind] and bool((one.abs() <= limit).all()) for kind, one in left.items()}
        squares = {kind: squares[kind] + power(left[kind][copied]) for kind in squares}
    own = math.sqrt(power(small) / small.numel())
    strength = {kind: math.sqrt(one / num_entries) / own for kind, one in squares.items()}
    kind = next((kind for kind, is_so in fits.items() if is_so), "other")
    return _Shares(
        kind=kind,
        strength=strength,
        spread=spread / 2,
        uncertainty=ROUNDINGS * (unit + OF_SUMS),
        num_entries=num_entries,
        can_be_diagonal=_can_be_diagonal(link),
    )


def _parts(link: Link, whole: torch.Tensor, grown: torch.Tensor) -> Iterator[tuple[slice, Part]]:
    """The grown tensor some rows at a time, each entry with the whole weight and the number of copies that share it."""
    counts = _counts(link).expand(grown.shape)
    step = max(1, ENTRIES * len(grown) // max(1, grown.numel()))
    for start in range(0, len(grown), step):
        rows, single = slice(start, start + step), whole
        for axis, growth in enumerate(link.growths):
            single = selected(single, axis, growth.source[rows] if axis == 0 else growth.source)
        yield rows, (grown[rows], single, counts[rows])


def _counts(link: Link) -> torch.Tensor:
    """The number of copies of each entry's input, broadcastable over the grown tensor."""
    counts = torch.ones([1] * len(link.growths), dtype=torch.float64)
    for axis in link.in_axes:
        counts = counts * link.along(axis, link.growths[axis].num_copies.astype(np.float64))
    return counts


def _diagonal(link: Link) -> torch.Tensor:
    """Whether outputs and inputs of an entry are copies with the same number, broadcastable over the grown tensor."""
    copies = [link.along(axis, growth.copy.astype(np.int64)) for axis, growth in enumerate(link.growths)]
    zero = torch.zeros([1] * len(link.growths), dtype=torch.int64)
    out = sum((copy for axis, copy in enumerate(copies) if axis not in link.in_axes), zero)
    same = torch.ones([1] * len(link.growths), dtype=torch.bool)
    for axis in link.in_axes:
        if not link.growths[axis].is_identity:
            same = same & (copies[axis] == out)
    return same


def _can_be_diagonal(link: Link) -> bool:
    counts = [{int(one) for one in np.unique(growth.num_copies)} for growth in link.growths]
    inner = set[int]().union(*(one for axis, one in enumerate(counts) if axis in link.in_axes))
    outer = set[int]().union(*(one for axis, one in enumerate(counts) if axis not in link.in_axes))
    return len(outer) == 1 and inner == outer != {1}
