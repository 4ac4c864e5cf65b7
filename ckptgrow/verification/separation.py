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

from ckptgrow.storage.tensors import num_elements
from ckptgrow.verification.history import Declared
from ckptgrow.verification.pair import Link, Pair
from ckptgrow.verification.precision import rounding, smallest
from ckptgrow.verification.shares import Shared, Strength
from ckptgrow.verification.tensor_blocks import Tensors, exact_sum, row_sums
from ckptgrow.verification.threads import in_threads
from ckptgrow.verification.weights import WeightScale

ROUNDINGS = 4  # of stored weights
OF_SUMS = 1e-13  # of factors and spreads that are measured over a whole weight, in float64
NEARER = 0.75  # of what is allowed, of shares with nearly the measured strength
KINDS = ("even", "diagonal", "dealt")
LIKE = 0.1  # relative, of the strength of drawn terms over a whole model
SCATTER = 3.0  # standard deviations, in units of 1/√draws, of the strength of few


@dataclass(frozen=True, kw_only=True)
class _Shares:
    """How one weight is shared out among the copies that it reads.

    `kind`: "even"; "diagonal", each copy of the outputs reading one copy of the inputs; "dealt", entry by entry;
    "other". `spread` is half the difference of the two shares where it is dealt out, known up to `uncertainty`.
    `can_be_diagonal` tells whether both sides have equally many copies. `num_entries`: of the copies.
    """

    tensors: Tensors
    factor: float
    kind: str
    spread: float
    uncertainty: float
    num_entries: int
    can_be_diagonal: bool


def separation_problems(pair: Pair, weights: Mapping[str, WeightScale], declared: Declared) -> list[str]:
    """Where the history's `how`, `separate` and `noise` are not what the weights show, in sentences.

    After several growths in width the weights only show whether anything separates the copies.
    """
    widths = [one for one in declared.records if "separate" in one]
    if not widths or any(one.get("how") == "pad" for one in widths):
        return []
    found = _measured(pair, weights)
    if not found:
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
        strengths = in_threads(lambda one: _strength(one, how), found, lambda one: one.num_entries)
        squares = [strength**2 * one.num_entries for strength, one in zip(strengths, found, strict=True)]
        num_draws = sum(one.num_entries for one in found)
        measured = math.sqrt(sum(squares) / num_draws)
        if not abs(measured - strength) <= (LIKE + SCATTER / math.sqrt(num_draws)) * strength:
            yield f"the history says noise {strength:g}, but the weights have {measured:.2g}"


def _strength(one: _Shares, how: object) -> float:
    """The root mean square of what even shares, or diagonal ones, leave of the copies, over the small weight's.

    Noise was added to the ones or the others. Experts that a file holds one by one are seen here as one tensor, so the
    smaller strength decides.
    """
    kinds = ["even"] if how != "diagonal" else ["diagonal"] if one.can_be_diagonal else ["even", "diagonal"]
    squares: dict[str, list[float]] = {kind: [] for kind in kinds}
    own, num_own = list[float](), 0
    for part in one.tensors.parts():
        shared = Shared.of(part, one.factor)
        own += row_sums(part.small.square())
        num_own += part.small.numel()
        for kind in kinds:
            for left, (are_copied,) in _left(kind, shared, one.spread, shared.are_copied):
                squares[kind] += row_sums(left.masked_fill_(~are_copied, 0.0).square_())
    size = math.sqrt(exact_sum(own) / num_own)
    return min(math.sqrt(exact_sum(left) / one.num_entries) / size for left in squares.values())


def _measured(pair: Pair, weights: Mapping[str, WeightScale]) -> list[_Shares]:
    def shares(name: str) -> _Shares | None:
        tensors, factor = Tensors.of(pair, pair.links[name]), weights[name].factor
        if not factor or not any(bool(part.small.any()) for part in tensors.parts()):  # zeros show no shares
            return None
        return _shares(pair, tensors, factor)

    plain = [
        name
        for name, link in pair.links.items()
        if name in weights
        and any(int(link.growths[axis].num_copies.max()) > 1 for axis in link.in_axes)
        and not link.is_new_layer
        and not link.grown.layout.offset
    ]
    found = in_threads(shares, plain, lambda name: num_elements(pair.grown.checkpoint.tensors[name]))
    return [one for one in found if one is not None]


def _shares(pair: Pair, tensors: Tensors, factor: float) -> _Shares:
    unit, least = pair.num_growths * rounding(tensors.new.dtype), pair.num_growths * smallest(tensors.new.dtype)
    fit = _Fit(tensors, factor, ROUNDINGS * (unit + OF_SUMS), least)
    kind, spread = fit.kind_and_spread()
    return _Shares(
        tensors=tensors,
        factor=factor,
        kind=kind,
        spread=spread / 2,
        uncertainty=ROUNDINGS * (unit + OF_SUMS),
        num_entries=_num_copied(tensors.link),
        can_be_diagonal=_can_be_diagonal(tensors.link),
    )


@dataclass(frozen=True, eq=False)
class _Fit:
    """Which kind of shares leaves no more than `relative` of a weight, and `least`, in any entry of a tensor."""

    tensors: Tensors
    factor: float
    relative: float
    least: float

    def kind_and_spread(self) -> tuple[str, float]:
        """The first of the kinds that fits, else "other", and the measured strength of the shares.

        Shares of nearly the measured strength s, those of the first block, that leave clearly less than is allowed fit
        with s too, since no share moves by more than s does: so most tensors are read once.
        """
        parts = (Shared.of(part, self.factor) for part in self.tensors.parts())
        measured, guess, fitting = Strength(), None, [*KINDS]
        for shared in parts:
            measured.see(shared)
            guess = guess or measured.value
            fitting = [kind for kind in fitting if self._fits(kind, shared, guess, NEARER if kind == "dealt" else 1.0)]
        strength = measured.value
        is_near = abs(strength - (guess or 0.0)) <= (1 - NEARER) * self.relative
        kinds = [kind for kind in KINDS if kind in fitting and (kind != "dealt" or is_near)]
        if kinds:
            return kinds[0], strength
        again = (Shared.of(part, self.factor) for part in self.tensors.parts())
        is_dealt = all(self._fits("dealt", shared, strength, 1.0) for shared in again)
        return "dealt" if is_dealt else "other", strength

    def _fits(self, kind: str, shared: Shared, strength: float, share: float) -> bool:
        limit = share * self.relative * shared.whole.abs() + self.least
        return all(bool((left.abs_() <= most).all()) for left, (most,) in _left(kind, shared, strength, limit))


def _left(
    kind: str, shared: Shared, strength: float, *small: torch.Tensor
) -> Iterator[tuple[torch.Tensor, tuple[torch.Tensor, ...]]]:
    """In parts, what the shares of a kind leave of every entry, and what these copy of small tensors."""
    if kind == "dealt":
        yield from shared.distances(strength, *small)
    elif kind == "diagonal":
        for found, (is_own, whole, *others) in shared.beside(shared.whole, *small, grown=(_diagonal(shared.link),)):
            yield found - whole.masked_fill(~is_own, 0.0), tuple(others)
    else:
        for found, (even, *others) in shared.beside(shared.even, *small):
            yield found - even, tuple(others)


def _num_copied(link: Link) -> int:
    """The number of grown entries that other copies share an input with."""
    sizes = [growth.num_new for growth in link.growths]
    alone = [
        int((growth.num_copies == 1).sum()) if axis in link.in_axes else growth.num_new
        for axis, growth in enumerate(link.growths)
    ]
    return math.prod(sizes) - math.prod(alone)


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
