"""Rows of new tokens and new positions, and their moments, against the recipe that the history names.

tokens       the mean of all old rows, or of those of the record's pieces; second moments those of rare tokens
positions    old ones in turn; or the whole table stretched, by torch's own interpolation, moments as well
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ckptgrow.spaces.growth import Growth
from ckptgrow.verification.averages import instances_of
from ckptgrow.verification.coordinates import ROWS
from ckptgrow.verification.pair import Link, Pair, applied
from ckptgrow.verification.precision import rounding, smallest

OF_MEANS = 64.0  # roundings of float64, of the largest of the numbers that a mean is taken of
FEW = 1.01  # roundings of the stored dtype
CAPS = ("final_logit_softcapping",)  # behind which a mean of logits bounds nothing
SQUARE = 2  # the power of the gradient


def new_row_problems(pair: Pair) -> list[str]:
    """New rows of weights, and of averages of them, that begin otherwise than the record has them."""
    if pair.row_record is None:
        return []
    others = (replace(link, small=old, grown=new) for link, old, new in _averages(pair))
    return [one for link in [*pair.links.values(), *others] for one in _problems(pair, link, pair.row_record)]


def bound_of(pair: Pair) -> float | None:
    """By how much, in nats, the loss on old tokens may rise at most; None where no rule says it."""
    record, growth = pair.row_record, pair.growths.get("vocab")
    if record is None or growth is None or growth.is_identity or any(pair.grown.config.get(one) for one in CAPS):
        return None
    is_mean = record.get("init") == "mean" or (record.get("init") == "pieces" and not pair.grown.architecture.is_tied)
    return float(np.log1p(growth.is_fresh.sum() / growth.num_old)) if is_mean else None


def moments_of_new_rows(pair: Pair, link: Link, old: torch.Tensor, power: int, key: str) -> torch.Tensor | None:
    """What new rows of a record must hold, from the small record `old`, float64; zeros for None."""
    growth, rule = link.grown.layout.axes[0].growth(pair.growths), pair.fresh_moments
    if rule == "blend":
        return _stretched(pair, link, old)[torch.from_numpy(growth.is_fresh)]
    if rule == "rare" and (power == SQUARE or key == "exp_inf"):
        return _of_rare(old).expand(int(growth.is_fresh.sum()), *old.shape[1:])
    return None


def _averages(pair: Pair) -> Iterator[tuple[Link, Any, Any]]:
    """Every tensor of an average that both checkpoints have, with the link of its weight."""
    small, grown = instances_of(pair.small), instances_of(pair.grown)
    for prefix in sorted(small.keys() & grown.keys()):
        for link in pair.links.values():
            old, new = small[prefix].get(link.small.canonical), grown[prefix].get(link.grown.canonical)
            if old is not None and new is not None:
                yield link, old, new


def _problems(pair: Pair, link: Link, record: Mapping[str, Any]) -> Iterator[str]:
    space = ROWS[record["operator"]]
    if space not in link.grown.layout.spaces or not link.is_padded:
        return
    growth = link.grown.layout.axes[0].growth(pair.growths)
    is_fresh = torch.from_numpy(growth.is_fresh)
    old, found = applied(pair.small, link.small), applied(pair.grown, link.grown)[is_fresh]
    expected = _expected(pair, link, old, growth)
    dtype = pair.grown.checkpoint.tensors[link.grown.name].dtype
    size = float(old.abs().max()) if old.numel() else 0.0
    left = FEW * rounding(dtype) * expected.abs() + smallest(dtype) + OF_MEANS * rounding(torch.float64) * size
    wrong = ((found - expected).abs() <= left).reshape(len(found), -1).all(1).logical_not().nonzero()[:, 0]
    if len(wrong):
        number = int(is_fresh.nonzero()[wrong[0], 0])
        what = record.get("init") or record.get("new_positions")
        yield f"{link.grown.name}: {len(wrong)} new rows, row {number} first, are not the record's {what} of old ones"


def _expected(pair: Pair, link: Link, old: torch.Tensor, growth: Growth) -> torch.Tensor:
    record = pair.row_record or {}
    fresh = np.flatnonzero(growth.is_fresh)
    if record.get("operator") == "positions":
        if pair.is_stretched:
            return _stretched(pair, link, old)[torch.from_numpy(fresh)]
        first = len(old) - _num_used(pair)
        return old[torch.from_numpy(first + (fresh - first) % _num_used(pair))]
    mean = old.mean(0)
    init, pieces = record.get("init"), record.get("pieces") or []
    writes = link.grown.layout.axes[0].role == "out"
    if init == "mean" or (init == "pieces" and writes):
        return mean.expand(len(fresh), *old.shape[1:])
    parts = [*pieces, *[[]] * max(0, len(fresh) - len(pieces))]
    usable = ([one for one in some if one < len(old)] for some in parts[: len(fresh)])
    return torch.stack([old[torch.tensor(some)].mean(0) if some else mean for some in usable])


def _num_used(pair: Pair) -> int:
    """The small model's positions that tokens can have."""
    return pair.small.architecture.sizes["position"] - pair.small.family.unused_positions


def _stretched(pair: Pair, link: Link, old: torch.Tensor) -> torch.Tensor:
    """The table with its used positions stretched to their new number; the others before them as they are."""
    used = _num_used(pair)
    first, num_new = len(old) - used, link.grown.layout.axes[0].growth(pair.growths).num_new
    table = old[first:].reshape(used, -1).t()[None]
    new = torch.nn.functional.interpolate(table, size=num_new - first, mode="linear", align_corners=True)
    return torch.cat([old[:first], new[0].t().reshape(num_new - first, *old.shape[1:])])


def _of_rare(old: torch.Tensor) -> torch.Tensor:
    """The lower median over the tenth of the rows that has the least in the mean, of rows above zero; shape (1, …)."""
    means = old.reshape(len(old), -1).mean(1)
    seen = (means > 0).nonzero()[:, 0]
    if not len(seen):
        return torch.zeros(1, *old.shape[1:], dtype=old.dtype)
    rare = seen[means[seen].sort(stable=True).indices[: -(-len(seen) // 10)]]
    return old[rare].quantile(0.5, 0, interpolation="lower")[None]
