"""Which coordinate of each space comes from which, and what each growth added: by the sizes and the records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from ckptgrow.errors import RequestError
from ckptgrow.spaces.growth import FRESH, BoolVector, Growth, copies, identities, padded, product
from ckptgrow.state.opening import TrainingState
from ckptgrow.verification.trees import is_count

# of a router's choices, of what is summed by their weights, and of a bias that only chooses
EXPERT_SPACES = ("experts", "routed", "choice")
ROWS = {"vocab": "vocab", "positions": "position"}  # operators that give the tables of a space other rows


def growths_since(small: TrainingState, grown: TrainingState) -> Sequence[Mapping[str, Any]]:
    """The records of the growths that lie between the two."""
    return grown.checkpoint.history[len(small.checkpoint.history) :]


def row_record(small: TrainingState, grown: TrainingState) -> Mapping[str, Any] | None:
    """The record of the growth that gave a table other rows, if one did."""
    return next((one for one in growths_since(small, grown) if one.get("operator") in ROWS), None)


def mixture_record(small: TrainingState, grown: TrainingState) -> Mapping[str, Any] | None:
    """The record of the growth that made a mixture of a dense model, if one did."""
    return next((one for one in growths_since(small, grown) if one.get("dense") is not None), None)


def growths_between(small: TrainingState, grown: TrainingState) -> dict[str, Growth]:
    """The copies in every space, from the two configs' sizes and whether the record says that it was padded.

    Raises RequestError for a pair in which something shrank, or that was grown in several ways.
    """
    old, new = (state.architecture.sizes for state in (small, grown))
    record = row_record(small, grown)
    replaced = None if record is None else ROWS[record["operator"]]
    shrunk = [space for space in old if new[space] < old[space] and space != replaced]
    if shrunk:
        raise RequestError(
            f"{grown.where}: {shrunk[0]} is {new[shrunk[0]]}, expected at least {old[shrunk[0]]} as in {small.where}; "
            "give the small checkpoint first"
        )
    grown_by = {record.get("how") for record in growths_since(small, grown)}
    if "pad" in grown_by or record is not None:
        if len(grown_by) > 1 or (record is not None and len(growths_since(small, grown)) > 1):
            named = {str(one.get("how", one.get("operator"))) for one in growths_since(small, grown)}
            raise RequestError(
                f"{grown.where}: was grown by {' and '.join(sorted(named))}, expected one kind of growth "
                f"since {small.where}; verify each on its own"
            )
        if record is not None:
            return _with_rows(old, new, record)
        return {space: padded(old[space], new[space]) for space in old}
    growths = identities(old)
    for step, _ in _steps(small, grown):
        growths = {space: _composed(growths[space], step[space]) for space in old}
    return growths


def added_coordinates(small: TrainingState, grown: TrainingState) -> list[dict[str, BoolVector]]:
    """For each growth between the two, which coordinates of the spaces that it enlarged it added: all but the first of
    each source.
    """
    return [
        {space: ~_firsts(one) for space, one in step.items() if not _firsts(one).all()}
        for step, _ in _steps(small, grown)
    ]


def begun_anew(small: TrainingState, grown: TrainingState) -> dict[str, BoolVector]:
    """Which coordinates of every space come from ones that were new in a growth with `reset new`."""
    marks = {space: np.zeros(size, np.bool_) for space, size in small.architecture.sizes.items()}
    for step, record in _steps(small, grown):
        for space, one in step.items():
            before = np.where(one.is_fresh, False, marks[space][one.source])
            marks[space] = before | ~_firsts(one) if has_begun_anew(record) else before
    return marks


def check_one_rule(small: TrainingState, grown: TrainingState) -> None:
    """Raises RequestError where growths between the two carried moments over, or decay, by different rules."""
    records = _scaling(small, grown)
    decay = {str(one.get("wd_rule", "trajectory")) for one in records if one.get("lr_rule") == "mup"}
    rules = {"--moments": moment_rules(small, grown), "--wd-rule": decay}
    for option, found in rules.items():
        if len(found) > 1:
            raise RequestError(
                f"{grown.where}: was grown with {option} {' and '.join(sorted(found))}, expected one of them since "
                f"{small.where}; verify each on its own"
            )


def moment_rules(small: TrainingState, grown: TrainingState) -> set[str]:
    """The rules by which moments were carried over, as the records have them."""
    return {str(one.get("moments", "algebra")) for one in _scaling(small, grown)}


def _scaling(small: TrainingState, grown: TrainingState) -> list[Mapping[str, Any]]:
    """The records of growths that change what gradients are: those in width, and layers that share what they write."""
    records = growths_since(small, grown)
    return [one for one in records if one.get("operator") in ("width", "experts") or one.get("new") == "ode"]


def has_begun_anew(record: Mapping[str, Any]) -> bool:
    """Whether a growth began the moments of what was new anew, by its record."""
    parts = record.get("reset")
    return isinstance(parts, list) and "new" in parts


def _firsts(growth: Growth) -> BoolVector:
    """The coordinates that are the first of their sources: the old ones."""
    found = np.zeros(growth.num_new, np.bool_)
    found[np.unique(growth.source, return_index=True)[1]] = True
    return found & ~growth.is_fresh


def _steps(small: TrainingState, grown: TrainingState) -> Iterator[tuple[dict[str, Growth], Mapping[str, Any]]]:
    """The growths between the two, each with its record; one without where there is no record.

    Copies of copies lie otherwise than copies at once; a record that tells wrong sizes makes the weights differ.
    """
    records = list(growths_since(small, grown)) or [{}]
    sizes, last = small.architecture.sizes, grown.architecture.sizes
    for index, record in enumerate(records):
        told = record.get("sizes") if index < len(records) - 1 else last
        told = told if isinstance(told, Mapping) else sizes
        larger = {space: int(told.get(space, size)) for space, size in sizes.items()}
        if record.get("operator") in ROWS:
            yield _with_rows(sizes, larger, record), record
        elif record.get("how") == "pad":
            yield {space: padded(sizes[space], larger[space]) for space in sizes}, record
        elif record.get("dense") is not None:
            yield {**_copies(sizes, larger), **_of_tokens(sizes, larger, record)}, record
        else:
            yield _copies(sizes, larger), record
        sizes = larger


def _with_rows(old: Mapping[str, int], new: Mapping[str, int], record: Mapping[str, Any]) -> dict[str, Growth]:
    """Every space as it was, but for the rows that a record replaced; without a record of them, the first ones stay."""
    growths = identities(old)
    space = ROWS[record["operator"]]
    if space in old:
        source, runs = np.full(new[space], FRESH), record.get("kept")
        for start, stop, first in runs if are_kept(runs) else [[0, min(old[space], new[space]), 0]]:
            count = max(0, min(stop, new[space], start + old[space] - first) - start)
            source[start : start + count] = np.arange(first, first + count)
        ones = np.ones(len(source))
        growths[space] = Growth(source=source, write=ones, read=ones, num_old=old[space])
    return growths


def are_kept(value: Any) -> TypeGuard[list[list[int]]]:
    """Whether a value has the form of runs of kept rows: new begin, new end, old begin."""
    return isinstance(value, list) and all(
        isinstance(run, list) and len(run) == 3 and all(map(is_count, run)) and run[0] < run[1] for run in value
    )


def _copies(old: Mapping[str, int], new: Mapping[str, int]) -> dict[str, Growth]:
    """The copies of one growth, from the sizes before and after it."""
    growths = {space: copies(old[space], new[space]) for space in old}
    if "kv_heads" in old and new["heads"] % new["kv_heads"] == 0:  # every group of queries holds its own copies
        members, new_members = (sizes["heads"] // sizes["kv_heads"] for sizes in (old, new))
        if new_members >= members:
            growths["heads"] = product([growths["kv_heads"], copies(members, new_members)])
        elif new["heads"] == old["heads"] and members % new_members == 0:
            growths["kv_heads"] = _serving(old["kv_heads"], members // new_members)
    return growths


def _of_tokens(old: Mapping[str, int], new: Mapping[str, int], record: Mapping[str, Any]) -> dict[str, Growth]:
    """Copies of experts of which each token has some by the record: their gradients are those of different tokens,
    which sum to the old one; their squares are larger than those of equal parts, by the copies over those of a token.
    """
    parts, chosen = record.get("shards"), record.get("experts_per_token")
    num_chosen = max(1, int(chosen) // int(parts)) if is_count(parts) and is_count(chosen) and parts else 1
    found: dict[str, Growth] = {}
    for space in (one for one in EXPERT_SPACES if one in old):
        plain = copies(old[space], new[space])
        found[space] = Growth(
            source=plain.source,
            write=plain.write,
            read=plain.read,
            num_old=plain.num_old,
            squared=plain.read / num_chosen,
        )
    return found


def _serving(size: int, num_copies: int) -> Growth:
    """Copies of key heads beside each other, as the queries are that they serve: the gradients of these are parts of
    the old one that sum to it, and so do their squares where they are uncorrelated.
    """
    share = np.full(size * num_copies, 1 / num_copies)
    source = np.arange(size * num_copies) // num_copies
    return Growth(source=source, write=np.ones(len(source)), read=share, num_old=size, squared=share)


def _composed(first: Growth, then: Growth) -> Growth:
    """One growth after another: the copies of copies."""
    if first.is_identity:
        return then
    return Growth(
        source=first.source[then.source],
        write=np.ones(then.num_new),
        read=first.read[then.source] * then.read,
        num_old=first.num_old,
        squared=first.read_squared[then.source] * then.read_squared,
    )
