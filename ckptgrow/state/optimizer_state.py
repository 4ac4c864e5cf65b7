"""Optimizer state with its parameters by name: groups of options, and one record of tensors and numbers a parameter.

Here alone the keys of files become names of the model's parameters, and names keys again. torch numbers parameters;
who they are is known from `param_names` in the groups, from the orders that real trainers
use (accepted only if every shape fits and all fitting orders agree), or from a file with the names in order.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from ckptgrow.errors import OptimizerError, at, listing
from ckptgrow.formats.raw_optimizers import KeptAs, Key, KeyedBy, RawGroup, RawOptimizer, Record
from ckptgrow.state.matching import Shape, Slot, by_names, by_order, misfits
from ckptgrow.state.wrappers import bare_names
from ckptgrow.storage.code_blocks import CodeMap

# bitsandbytes' states: values and their maps (also wrapped, as its newer versions write them)
QUANTISED = re.compile(r"state[12]|qmap[12]|absmax[12]|max[12]|new_max[12]|__bnb_optimizer_quant_state__")


@dataclass(frozen=True)
class ParameterGroup:
    """Options (lr, betas, …) and the names, in order, of the parameters that they apply to."""

    options: Mapping[str, Any]
    names: tuple[str, ...]
    has_param_names: bool = False

    def with_options(self, **options: Any) -> ParameterGroup:
        """The same group with some options changed."""
        return replace(self, options={**self.options, **options})


@dataclass(frozen=True, kw_only=True)
class OptimizerState:
    """One optimizer's state; `state` maps a parameter's name to its record, `keyed_by` tells how files have it.
    `kept_as`: see RawOptimizer.
    """

    groups: tuple[ParameterGroup, ...]
    state: Mapping[str, Record]
    other: Mapping[str, Any] = field(default_factory=dict[str, Any])
    keyed_by: KeyedBy = "number"
    is_told_as_filed: bool = False  # its groups say the names of the file's tensors, which may not be the module's
    kept_as: KeptAs = "torch"

    @property
    def has_group_steps(self) -> bool:
        """Whether the file has one step for all parameters of a group."""
        return self.kept_as == "flat"

    @property
    def names(self) -> tuple[str, ...]:
        """All parameters, in the optimizer's order."""
        return tuple(name for group in self.groups for name in group.names)

    @property
    def state_keys(self) -> tuple[str, ...]:
        """The keys that occur in the records, sorted."""
        return tuple(sorted({key for record in self.state.values() for key in record}))

    @property
    def code_maps(self) -> tuple[CodeMap, ...]:
        """The maps of all records whose averages are in 8 bits, each once."""
        found = [one for record in self.state.values() for one in record.values() if isinstance(one, CodeMap)]
        return tuple({id(one.stored): one for one in found}.values())

    @property
    def group_of(self) -> Mapping[str, ParameterGroup]:
        """Each parameter's group."""
        return {name: group for group in self.groups for name in group.names}

    def to_raw(self, in_module: Mapping[str, str] = MappingProxyType({})) -> RawOptimizer:
        """What a file holds, its records in the order of its parameters; `in_module` tells the module's names, as torch
        writes them, of parameters that the file calls otherwise.
        """
        told = {} if self.is_told_as_filed else in_module
        is_named = self.keyed_by == "name"
        keys = {name: told.get(name, name) if is_named else number for number, name in enumerate(self.names)}
        groups = tuple(
            RawGroup(
                group.options,
                tuple(keys[name] for name in group.names),
                tuple(told.get(name, name) for name in group.names) if is_named or group.has_param_names else None,
            )
            for group in self.groups
        )
        records = {key: self.state[name] for name, key in keys.items() if name in self.state}
        return RawOptimizer(groups, records, self.other, self.kept_as)


def named_states(
    raws: Sequence[RawOptimizer],
    shapes: Mapping[str, Shape],
    order: Sequence[str] | None = None,
    in_module: Mapping[str, str] = MappingProxyType({}),
) -> tuple[OptimizerState, ...]:
    """Names the parameters of a checkpoint's optimizers.

    Several optimizers share the model: each parameter belongs to one of them at most. `shapes` are the trainable
    parameters in model order; `order` is the user's own list of names, those of the first optimizer first; `in_module`
    maps the module's own names of parameters to theirs in the checkpoint, where files spell them otherwise.
    Raises OptimizerError where the states do not fit, or fit in ways that disagree.
    """
    slots: list[Slot] = []
    for index, raw in enumerate(raws):
        with at(f"optimizer {index}"):
            slots += _slots(index, raw)
    names = _named(raws, slots, shapes, order, in_module)
    for name, slot in zip(names, slots, strict=True):
        for key, expected in misfits(slot.record, shapes[name]).items():
            raise OptimizerError(
                f"optimizer {slot.optimizer}: {key} of {name} has shape {list(slot.record[key].shape)}, expected "
                f"{list(expected)}"
            )
    remaining = iter(names)
    found = tuple(_with_names(raw, dict(zip(raw.keys, remaining, strict=False))) for raw in raws)
    told = {name for raw in raws for group in raw.groups for name in group.names or ()}
    if told and not {*bare_names(told).values()} & (in_module.keys() - shapes.keys()):
        return tuple(replace(state, is_told_as_filed=True) for state in found)
    return found


def unmatched(raw: RawOptimizer) -> OptimizerState:
    """An optimizer of which nobody knows whose its records are: its parameters are called by the file's keys."""
    return _with_names(raw, {key: str(key) for key in (*raw.keys, *raw.records)})


def without_record(states: Sequence[OptimizerState], names: Collection[str]) -> list[str]:
    """The parameters without a record where others have one, in a group or not; they may be frozen, or were lost."""
    recorded = {name for state in states for name in state.state}
    return sorted(set(names) - recorded) if recorded else []


def _slots(index: int, raw: RawOptimizer) -> list[Slot]:
    """An optimizer's parameters with their records, checked."""
    stray = set(raw.records) - set(raw.keys)
    if stray or len(set(raw.keys)) != len(raw.keys):
        raise OptimizerError(f"state of parameters {listing(stray or raw.keys)}, expected each in one group")
    quantised = {key for record in raw.records.values() for key in record if QUANTISED.match(key)}
    quantised = quantised if raw.kept_as == "torch" else set[str]()
    if quantised:
        raise OptimizerError(
            f"holds {listing(quantised)}, expected bitsandbytes' averages in 32 bits, or in 8 bits by blocks of 256 or "
            "2,048 (absmax1, absmax2), in all records alike; leave the optimizer out with ⟦reset optimizer⟧"
        )
    return [
        Slot(index, position, raw.records.get(key, {}))
        for position, group in enumerate(raw.groups)
        for key in group.keys
    ]


def _named(
    raws: Sequence[RawOptimizer],
    slots: Sequence[Slot],
    shapes: Mapping[str, Shape],
    order: Sequence[str] | None,
    in_module: Mapping[str, str],
) -> list[str]:
    if order is not None:
        with at("names in ⟦param_order⟧"):
            return by_names(order, slots, shapes, in_module)
    names_of = [group.names for raw in raws for group in raw.groups]
    told = [name for names in names_of for name in names or ()]
    place_of = {place: index for index, place in enumerate(_places(raws))}
    has_name = [names_of[place_of[slot.optimizer, slot.group]] is not None for slot in slots]
    known = [slot for slot, is_known in zip(slots, has_name, strict=True) if is_known]
    with at("param_names"):
        named = by_names(told, known, shapes, in_module) if told or known else []
    others = [slot for slot, is_known in zip(slots, has_name, strict=True) if not is_known]
    left = {name: shape for name, shape in shapes.items() if name not in named}
    ordered = by_order(others, left) if others else []
    by_turns = {True: iter(named), False: iter(ordered)}
    return [next(by_turns[is_known]) for is_known in has_name]


def _places(raws: Sequence[RawOptimizer]) -> list[tuple[int, int]]:
    """Each group's optimizer and number there."""
    return [(index, number) for index, raw in enumerate(raws) for number in range(len(raw.groups))]


def _with_names(raw: RawOptimizer, name_of: Mapping[Key, str]) -> OptimizerState:
    groups = tuple(
        ParameterGroup(group.options, tuple(name_of[key] for key in group.keys), group.names is not None)
        for group in raw.groups
    )
    return OptimizerState(
        groups=groups,
        state={name_of[key]: record for key, record in raw.records.items()},
        other=raw.other,
        keyed_by=raw.keyed_by,
        kept_as=raw.kept_as,
    )


def numbered(raw: RawOptimizer) -> RawOptimizer:
    """The same optimizer by number, as every trainer reads it, its parameters' names beside the numbers."""
    return raw if raw.keyed_by == "number" else replace(unmatched(raw), keyed_by="number").to_raw()
