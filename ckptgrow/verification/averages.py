"""Other sets of the weights in the same file (averages): each must be to its small one what the weights are to theirs.

Summed over the copies of its inputs an average is the small average times the factor of its weight; and it is shared
among the copies in the way its weight is: dealt out, or with noise that follows the weight's own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ckptgrow.checkpoints.tensors import whole
from ckptgrow.families.claim import Claimed
from ckptgrow.families.state import TrainingState
from ckptgrow.verification.magnitude import largest
from ckptgrow.verification.pair import Link, Pair
from ckptgrow.verification.precision import STORED_TOLERANCES
from ckptgrow.verification.weights import WeightScale


def average_problems(pair: Pair, weights: Mapping[str, WeightScale]) -> list[str]:
    """Sets that are missing or new, and averages that are not those of the weights."""
    small, grown = (_sets(state) for state in (pair.small, pair.grown))
    problems = [f"the set of weights {prefix!r} is missing" for prefix in small if prefix not in grown]
    problems += [f"the small checkpoint has no set of weights {prefix!r}" for prefix in grown if prefix not in small]
    for prefix in small.keys() & grown.keys():
        for name, link in pair.links.items():
            new, old = grown[prefix].get(link.grown.canonical), small[prefix].get(link.small.canonical)
            if new is not None and old is not None:
                problems += _of_one(pair, link, weights.get(name), old, new)
            elif (new is None) != (old is None):
                problems.append(f"{prefix}{link.grown.canonical} is missing or new among the averages")
    return problems


def _sets(state: TrainingState) -> dict[str, dict[str, Claimed]]:
    model = state.claim.model[0].prefix
    found: dict[str, dict[str, Claimed]] = {}
    for one in state.claim.tensors:
        if one.prefix != model and not one.is_buffer:
            found.setdefault(one.prefix, {})[one.canonical] = one
    return found


def _of_one(pair: Pair, link: Link, weight: WeightScale | None, small: Claimed, grown: Claimed) -> list[str]:
    stored = pair.grown.checkpoint.tensors[grown.name]
    old_stored = pair.small.checkpoint.tensors[small.name]
    if stored.dtype != old_stored.dtype:
        return [f"{grown.name} is {stored.dtype}, expected {old_stored.dtype}"]
    offset = link.grown.layout.offset
    new = whole(stored).double() + offset
    if link.fresh is not None:
        return _of_new_layer(pair, link, grown, new)
    old = link.rows_of(whole(old_stored).double() + offset)
    if weight is None or weight.factor is None:
        return []
    copied = link.copied_part(new)
    summed = link.summed_inputs(copied)
    expected = old * weight.factor
    size = max(largest(expected), largest(copied), 1e-30)
    difference = largest(summed - expected) / size
    limit = pair.num_growths * link.num_terms * STORED_TOLERANCES[stored.dtype]
    if difference > limit:
        return [f"{grown.name} differs from the small average by {difference:.1e} of its largest value"]
    return _shares(pair, link, grown, copied)


def _of_new_layer(pair: Pair, link: Link, grown: Claimed, new: torch.Tensor) -> list[str]:
    """In a new layer the average is zero where the weight is."""
    weight = whole(pair.grown.checkpoint.tensors[link.grown.name]).double() + link.grown.layout.offset
    if not bool(weight.any()) and bool(new.any()):
        return [f"{grown.name} is not zero, expected zeros as its weight"]
    return []


def _shares(pair: Pair, link: Link, grown: Claimed, average: torch.Tensor) -> list[str]:
    """Where the weight was dealt out – most of its entries are zero – the average has its zeros in the same places."""
    weight = pair.grown_tensor(link)
    if not link.has_copies or not link.in_axes or float((weight == 0).double().mean()) < 1 / 4:
        return []
    apart = ((weight == 0) & (average != 0)).any()
    return [f"{grown.name} is not shared among copies as its weight is"] if bool(apart) else []
