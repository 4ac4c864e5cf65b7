"""Optimizers' records between a trainer's names and forms and transformers'.

An entry of its parameter's shape follows the parameter; a number is every part's. What the trainer lacks has no record,
until it goes to a trainer that has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch

from ckptgrow.dialects.forms import Form
from ckptgrow.errors import OptimizerError, RequestError, listing
from ckptgrow.formats.bitsandbytes_records import CODE_MAPS
from ckptgrow.formats.raw_optimizers import RawGroup, RawOptimizer, Record
from ckptgrow.state.matching import Shape
from ckptgrow.state.optimizer_kinds import recognised
from ckptgrow.state.optimizer_state import OptimizerState, named_states
from ckptgrow.storage.tensors import Zeros, is_lazy, whole


@dataclass(frozen=True, kw_only=True)
class Entries:
    """The trainer's and transformers' names of the parameters of one row in one layer, and how the ones become the
    others.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    form: Form


OptimizerTerms = Sequence[Entries]
POWERS = {"gradient": -1, "square": -2, "magnitude": -1}  # of the weight's scale, by what an entry is


def to_transformers(
    raws: Sequence[RawOptimizer], terms: OptimizerTerms, shapes: Mapping[str, Shape]
) -> tuple[RawOptimizer, ...]:
    """Optimizers by transformers' names, numbered, the names beside the numbers.

    `shapes` are the trainer's parameters in its order. Raises OptimizerError as `named_states` does, and for entries
    that cannot follow their parameter.
    """
    found = [_to_transformers(state, terms) for state in named_states(raws, shapes)]
    return tuple(replace(state, keyed_by="number").to_raw() for state in found)


def _to_transformers(state: OptimizerState, terms: OptimizerTerms) -> OptimizerState:
    records: dict[str, Record] = {}
    for entries in terms:
        found = [state.state[name] for name in entries.theirs if name in state.state]
        if len(found) not in (0, len(entries.theirs)):
            raise OptimizerError(
                f"{len(found)} of {listing(entries.theirs)} have records, expected all or none: they are one tensor of "
                "transformers'"
            )
        options = state.group_of[entries.theirs[0]].options if found else {}
        for key in found[0] if found else ():
            values = _values(key, found, entries, options, is_back=False)
            for name, value in zip(entries.ours, values, strict=True):
                records[name] = {**records.get(name, {}), key: value}
    entries_of = {name: entries for entries in terms for name in entries.theirs}
    groups = tuple(
        replace(group, names=_in_one_group(group.names, entries_of), has_param_names=True) for group in state.groups
    )
    return replace(state, groups=groups, state=records, is_told_as_filed=True)


def _in_one_group(names: Sequence[str], entries_of: Mapping[str, Entries]) -> tuple[str, ...]:
    """Transformers' names of a group's parameters; raises OptimizerError where some of one tensor are elsewhere."""
    own = set(names)
    torn = [name for name in names if not own.issuperset(entries_of[name].theirs)]
    if torn:
        raise OptimizerError(f"{listing(torn)} are in a group without all of their tensor, expected one group for it")
    return tuple(dict.fromkeys(ours for name in names for ours in entries_of[name].ours))


def _values(
    key: str, records: Sequence[Record], entries: Entries, options: Mapping[str, Any], *, is_back: bool
) -> Sequence[Any]:
    """What one side's parameters have for an entry of the other side's records; `options`: their group's."""
    form, values = entries.form, [record[key] for record in records]
    if key in CODE_MAPS and not form.row.is_renaming:
        raise OptimizerError(
            f"{form.row.theirs} has moments in 8 bits, expected 32 where a trainer's own layout differs from "
            "transformers'; leave the optimizer out with ⟦reset optimizer⟧"
        )
    if is_lazy(values[0]) and values[0].shape:
        if form.row.is_renaming:
            return values
        power = _power(options, records[0], key, form)
        if is_back:
            return form.theirs(values, power)
        for value, shape in zip(values, form.shapes_of_theirs, strict=True):
            _check_shape(value.shape, shape)
        return form.ours(values, power)
    if any(not _same(values[0], value) for value in values[1:]):
        raise OptimizerError(f"{key} differs between the parts of one tensor, expected one")
    return [values[0]] * len(entries.theirs if is_back else entries.ours)


def _power(options: Mapping[str, Any], record: Record, key: str, form: Form) -> int:
    """By which power of its parameter's scale an entry follows; raises OptimizerError where that is not known."""
    if not any(step[0] == "times" for part in form.row.parts for step in part.steps):
        return -1
    kind = recognised(options, record.keys())
    entry = kind.entries[key] if kind else None
    if entry not in POWERS and key != "step":
        raise OptimizerError(
            f"{key} of {form.row.theirs} follows its parameter by no known rule, expected an average of gradients"
        )
    return POWERS.get(str(entry), -1)


def _check_shape(found: Shape, expected: Shape) -> None:
    if found != expected:
        raise OptimizerError(
            f"an entry has shape {list(found)}, expected its parameter's {list(expected)}: factored ones cannot follow "
            "a trainer's own layout; leave the optimizer out with ⟦reset optimizer⟧"
        )


def with_zeros(state: OptimizerState, absent: Mapping[str, Shape]) -> OptimizerState:
    """The state with records of zeros for what the trainer lacks, in a group of parameters with as many axes."""
    groups, records = list(state.groups), dict(state.state)
    for name, shape in absent.items():
        place = next((at for at, group in enumerate(groups) if _has_axes(state, group.names, len(shape))), 0)
        example = next((records[one] for one in groups[place].names if one in records), None)
        if example is not None:
            records[name] = {
                key: Zeros(shape, value.dtype) if is_lazy(value) and value.shape else value
                for key, value in example.items()
            }
        groups[place] = replace(groups[place], names=(*groups[place].names, name))
    return replace(state, groups=tuple(groups), state=records)


def _has_axes(state: OptimizerState, names: Sequence[str], count: int) -> bool:
    """Whether a group has parameters of so many axes."""
    shapes = [value.shape for name in names for value in state.state.get(name, {}).values() if is_lazy(value)]
    return any(len(shape) == count for shape in shapes)


def to_theirs(
    raws: Sequence[RawOptimizer],
    terms: OptimizerTerms,
    absent: Mapping[str, Shape],
    keyed_by: Sequence[str],
    order: Mapping[str, int] | None = None,
) -> tuple[RawOptimizer, ...]:
    """The reverse; `keyed_by` tells how the trainer's file has each optimizer's parameters ("name", "number" or "both",
    names beside numbers), `order` which comes first in a group, where it is not the order in which they are.

    Raises RequestError where parts of one tensor of the trainer's have come to be in different groups.
    """
    entries_of = {name: entries for entries in terms for name in entries.ours}
    return tuple(
        _to_theirs(raw, entries_of, absent, key, order or {}) for raw, key in zip(raws, keyed_by, strict=False)
    )


def _to_theirs(
    raw: RawOptimizer,
    entries_of: Mapping[str, Entries],
    absent: Mapping[str, Shape],
    keyed_by: str,
    order: Mapping[str, int],
) -> RawOptimizer:
    groups: list[list[Entries]] = []
    for group in raw.groups:
        if group.names is None:
            raise OptimizerError("its parameters have no names, expected transformers'")
        own = {entries_of[name].theirs: entries_of[name] for name in group.names if name not in absent}
        groups.append(list(own.values()))
    named = [
        sorted((name for one in group for name in one.theirs), key=lambda name: order.get(name, 0)) for group in groups
    ]
    _check_once(named)
    record_of = _records_by_name(raw)
    keys = {name: name if keyed_by == "name" else number for number, name in enumerate(chain.from_iterable(named))}
    records = {
        keys[name]: record
        for group, members in zip(raw.groups, groups, strict=True)
        for entries in members
        if entries.ours[0] in record_of
        for name, record in _records_of(entries, record_of, group.options).items()
    }
    return RawOptimizer(
        tuple(
            RawGroup(one.options, tuple(keys[name] for name in names), None if keyed_by == "number" else tuple(names))
            for one, names in zip(raw.groups, named, strict=True)
        ),
        {key: records[key] for key in keys.values() if key in records},
        raw.other,
        raw.kept_as,
    )


def _check_once(groups: Sequence[Sequence[str]]) -> None:
    twice = {name for index, group in enumerate(groups) for name in group if any(name in one for one in groups[:index])}
    if twice:
        raise RequestError(
            f"the parts of {listing(twice)} have different learning rates, expected one: use ⟦lr_rule keep⟧"
        )


def _records_of(
    entries: Entries, record_of: Mapping[str, Record], options: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The trainer's records of a row, by its names; `options`: their group's."""
    found = [record_of[name] for name in entries.ours]
    made: dict[str, dict[str, Any]] = {name: {} for name in entries.theirs}
    for key in found[0]:
        values = _values(key, found, entries, options, is_back=True)
        for name, value in zip(entries.theirs, values, strict=True):
            made[name][key] = value
    return made


def _records_by_name(raw: RawOptimizer) -> dict[str, Record]:
    return {
        name: raw.records[key]
        for group in raw.groups
        for key, name in zip(group.keys, group.names or (), strict=True)
        if key in raw.records
    }


def _same(one: Any, other: Any) -> bool:
    if is_lazy(one) and is_lazy(other):
        return bool(torch.equal(whole(one), whole(other)))
    return bool(one == other)
