"""Optimizers' records between a trainer's names and forms and transformers'.

An entry of its parameter's shape follows the parameter; a number is every part's. What the trainer lacks has no record,
until it goes to a trainer that has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ckptgrow.dialects.forms import Form
from ckptgrow.errors import OptimizerError, RequestError, listing
from ckptgrow.formats.raw_optimizers import RawGroup, RawOptimizer, Record
from ckptgrow.state.matching import Shape
from ckptgrow.state.optimizer_kinds import recognised
from ckptgrow.state.optimizer_state import OptimizerState, named_states
from ckptgrow.storage.tensors import Zeros, is_lazy, whole

OptimizerTerms = Mapping[str, tuple[tuple[str, ...], Form]]  # the trainer's name to transformers' and the form
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
    for name, record in state.state.items():
        ours, form = terms[name]
        for place, part in enumerate(ours):
            options = state.group_of[name].options
            records[part] = {
                key: _part(value, form, place, _power(options, record, key, form)) for key, value in record.items()
            }
    groups = tuple(
        replace(group, names=tuple(part for name in group.names for part in terms[name][0]), has_param_names=True)
        for group in state.groups
    )
    return replace(state, groups=groups, state=records, is_told_as_filed=True)


def _part(value: Any, form: Form, place: int, power: int) -> Any:
    if not is_lazy(value) or not value.shape:
        return value
    if form.row.is_renaming:
        return value
    _check_shape(value.shape, form.shape)
    return form.ours(value, power)[place]


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
    """The reverse; `keyed_by` tells how the trainer's file has each optimizer's parameters, `order` which comes first
    in a group, where it is not the order in which they are.

    Raises RequestError where parts of one tensor of the trainer's have come to be in different groups.
    """
    term_of = {part: name for name, (ours, _) in terms.items() for part in ours}
    return tuple(
        _to_theirs(raw, terms, term_of, absent, key, order or {}) for raw, key in zip(raws, keyed_by, strict=False)
    )


def _to_theirs(
    raw: RawOptimizer,
    terms: OptimizerTerms,
    term_of: Mapping[str, str],
    absent: Mapping[str, Shape],
    keyed_by: str,
    order: Mapping[str, int],
) -> RawOptimizer:
    groups: list[list[str]] = []
    for group in raw.groups:
        if group.names is None:
            raise OptimizerError("its parameters have no names, expected transformers'")
        own = dict.fromkeys(term_of[name] for name in group.names if name not in absent)
        groups.append(sorted(own, key=lambda name: order.get(name, 0)))
    twice = {name for index, group in enumerate(groups) for name in group if any(name in one for one in groups[:index])}
    if twice:
        raise RequestError(
            f"the parts of {listing(twice)} have different learning rates, expected one: use ⟦lr_rule keep⟧"
        )
    record_of = _records_by_name(raw)
    names = [name for group in groups for name in group]
    keys = {name: name if keyed_by == "name" else number for number, name in enumerate(names)}
    records = {
        keys[name]: _joined([record_of[part] for part in terms[name][0]], terms[name][1], group.options)
        for group, members in zip(raw.groups, groups, strict=True)
        for name in members
        if terms[name][0][0] in record_of
    }
    return RawOptimizer(
        tuple(
            RawGroup(one.options, tuple(keys[name] for name in group), tuple(group) if keyed_by == "name" else None)
            for one, group in zip(raw.groups, groups, strict=True)
        ),
        records,
        raw.other,
        raw.kept_as,
    )


def _records_by_name(raw: RawOptimizer) -> dict[str, Record]:
    return {
        name: raw.records[key]
        for group in raw.groups
        for key, name in zip(group.keys, group.names or (), strict=True)
        if key in raw.records
    }


def _joined(records: Sequence[Record], form: Form, options: Mapping[str, Any]) -> dict[str, Any]:
    """One record from those of a tensor's parts; `options`: their group's."""
    return {
        key: _whole(key, [record[key] for record in records], form, _power(options, records[0], key, form))
        for key in records[0]
    }


def _whole(key: str, values: Sequence[Any], form: Form, power: int) -> Any:
    first = values[0]
    if is_lazy(first) and first.shape:
        return first if form.row.is_renaming else form.theirs(values, power)
    if any(not _same(first, value) for value in values[1:]):
        raise OptimizerError(f"{key} differs between the parts of one tensor, expected one")
    return first


def _same(one: Any, other: Any) -> bool:
    if is_lazy(one) and is_lazy(other):
        return bool(torch.equal(whole(one), whole(other)))
    return bool(one == other)
