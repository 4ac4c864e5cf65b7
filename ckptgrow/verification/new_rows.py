"""Rows of new tokens and new positions, and their moments, against the recipe that the history names.

tokens       the mean of all old rows, or of those of the record's pieces; second moments those of rare tokens
positions    old ones in turn; or the whole table stretched, by torch's own interpolation, moments as well
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ckptgrow.spaces.growth import IntVector
from ckptgrow.storage.tensors import InMemory, LazyTensor, Made, chunks, whole
from ckptgrow.verification.averages import instances_of
from ckptgrow.verification.coordinates import ROWS
from ckptgrow.verification.pair import Link, Pair, applied
from ckptgrow.verification.precision import rounding, smallest
from ckptgrow.verification.tensor_blocks import pieces, rows_at

OF_MEANS = 64.0  # roundings of float64, of the largest of the numbers that a mean is taken of
FEW = 1.01  # roundings of the stored dtype
CAPS = ("final_logit_softcapping",)  # behind which a mean of logits bounds nothing
SQUARE = 2  # the power of the gradient
COLUMNS = 2**22  # entries whose medians are found at a time


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


def moments_of_new_rows(pair: Pair, link: Link, old: LazyTensor, power: int, key: str) -> LazyTensor | None:
    """What new rows of a record must hold, from the small record `old`, float64; zeros for None."""
    growth, rule = link.grown.layout.axes[0].growth(pair.growths), pair.fresh_moments
    if rule == "blend":
        return _rows(_stretched(pair, link, whole(old).double()), np.flatnonzero(growth.is_fresh))
    if rule == "rare" and (power == SQUARE or key == "exp_inf"):
        return _repeated(_of_rare(old), int(growth.is_fresh.sum()))
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
    wrong = list(_wrong_rows(pair, link))
    if wrong:
        what = record.get("init") or record.get("new_positions")
        yield f"{link.grown.name}: {len(wrong)} new rows, row {wrong[0]} first, are not the record's {what} of old ones"


def _wrong_rows(pair: Pair, link: Link) -> Iterator[int]:
    """The new rows that are not as they must be, by their numbers, ascending."""
    fresh = np.flatnonzero(link.grown.layout.axes[0].growth(pair.growths).is_fresh)
    old, found = applied(pair.small, link.small), applied(pair.grown, link.grown)
    expected, dtype = _expected(pair, link, old, fresh), pair.grown.checkpoint.tensors[link.grown.name].dtype
    size = max((float(piece.abs().max()) for piece in pieces(old)), default=0.0)
    for start, stop in chunks(expected):
        rows, wanted = rows_at(found, fresh[start:stop]), expected.rows(start, stop)
        left = FEW * rounding(dtype) * wanted.abs() + smallest(dtype) + OF_MEANS * rounding(torch.float64) * size
        is_wrong = ((rows - wanted).abs() <= left).reshape(len(rows), -1).all(1).logical_not()
        yield from fresh[start:stop][is_wrong.numpy()].tolist()


def _expected(pair: Pair, link: Link, old: LazyTensor, fresh: IntVector) -> LazyTensor:
    """What the new rows must be, by the record."""
    record = pair.row_record or {}
    if record.get("operator") == "positions":
        if pair.is_stretched:
            return _rows(_stretched(pair, link, whole(old)), fresh)
        first = old.shape[0] - _num_used(pair)
        places = first + (fresh - first) % _num_used(pair)
        return _made(old, len(fresh), lambda start, stop: rows_at(old, places[start:stop]))
    mean = _mean_of(old)
    init, pieces_of = record.get("init"), record.get("pieces") or []
    writes = link.grown.layout.axes[0].role == "out"
    if init == "mean" or (init == "pieces" and writes):
        return _repeated(mean, len(fresh))
    parts = [*pieces_of, *[[]] * max(0, len(fresh) - len(pieces_of))]
    usable = [[one for one in some if one < old.shape[0]] for some in parts[: len(fresh)]]

    def means(start: int, stop: int) -> torch.Tensor:
        return torch.stack([rows_at(old, np.array(some)).mean(0) if some else mean for some in usable[start:stop]])

    return _made(old, len(fresh), means)


def _mean_of(tensor: LazyTensor) -> torch.Tensor:
    """The mean of all rows, float64, shape (…)."""
    total = torch.zeros(tensor.shape[1:], dtype=torch.float64)
    for start, stop in chunks(tensor):
        total += tensor.rows(start, stop).sum(0)
    return total / tensor.shape[0]


def _made(old: LazyTensor, num_rows: int, rows: Callable[[int, int], torch.Tensor]) -> LazyTensor:
    return Made((num_rows, *old.shape[1:]), torch.float64, rows)


def _rows(table: torch.Tensor, places: IntVector) -> LazyTensor:
    return InMemory(table[torch.from_numpy(places)])


def _repeated(row: torch.Tensor, times: int) -> LazyTensor:
    """One row for every new row; no memory is taken for it."""
    return Made((times, *row.shape), row.dtype, lambda start, stop: row.expand(stop - start, *row.shape))


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


def _of_rare(old: LazyTensor) -> torch.Tensor:
    """The lower median over the tenth of the rows that has the least in the mean, of rows above zero; shape (…)."""
    means = torch.cat(
        [
            tensor.reshape(len(tensor), -1).mean(1)
            for start, stop in chunks(old)
            for tensor in (old.rows(start, stop).double(),)
        ]
    )
    seen = (means > 0).nonzero()[:, 0]
    if not len(seen):
        return torch.zeros(old.shape[1:], dtype=torch.float64)
    rare = seen[means[seen].sort(stable=True).indices[: -(-len(seen) // 10)]].sort().values
    rows = rows_at(old, rare.numpy()).reshape(len(rare), -1)
    step = max(1, COLUMNS // len(rare))
    medians = [
        rows[:, start : start + step].double().quantile(0.5, 0, interpolation="lower")
        for start in range(0, rows.shape[1], step)
    ]
    return torch.cat(medians).reshape(old.shape[1:])
