"""Optimizer state with its parameters by name: groups of options, and one record of tensors and numbers a parameter.

torch numbers parameters; who they are is known from `param_names` in the groups, from the orders that real trainers
use (accepted only if every shape fits and all fitting orders agree), or from a file with the names in order.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from ckptgrow.errors import OptimizerError, at, listing
from ckptgrow.state.matching import Record, Shape, Slot, by_names, by_order, misfits
from ckptgrow.state.wrappers import bare_names

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


@dataclass(frozen=True)
class OptimizerState:
    """One optimizer's state; `state` maps a parameter's name to its record."""

    groups: tuple[ParameterGroup, ...]
    state: Mapping[str, Record]
    other: Mapping[str, Any] = field(default_factory=dict[str, Any])
    is_told_as_filed: bool = False  # its groups say the names of the file's tensors, which may not be the module's

    @property
    def names(self) -> tuple[str, ...]:
        """All parameters, in the optimizer's order."""
        return tuple(name for group in self.groups for name in group.names)

    @property
    def state_keys(self) -> tuple[str, ...]:
        """The keys that occur in the records, sorted."""
        return tuple(sorted({key for record in self.state.values() for key in record}))

    @property
    def group_of(self) -> Mapping[str, ParameterGroup]:
        """Each parameter's group."""
        return {name: group for group in self.groups for name in group.names}

    def to_torch(self, in_module: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
        """The form of `torch.optim.Optimizer.state_dict()`; `in_module` tells the module's names, as torch writes them,
        of parameters that the file calls otherwise.
        """
        number = {name: position for position, name in enumerate(self.names)}
        groups: list[dict[str, Any]] = []
        for group in self.groups:
            entry = {**group.options, "params": [number[name] for name in group.names]}
            if group.has_param_names:
                told = {} if self.is_told_as_filed else in_module
                entry["param_names"] = [told.get(name, name) for name in group.names]
            groups.append(entry)
        records = {number[name]: dict(record) for name, record in self.state.items()}
        return {**self.other, "state": dict(sorted(records.items())), "param_groups": groups}


def from_torch(
    raws: Sequence[Mapping[str, Any]],
    shapes: Mapping[str, Shape],
    order: Sequence[str] | None = None,
    in_module: Mapping[str, str] = MappingProxyType({}),
) -> tuple[OptimizerState, ...]:
    """Names the parameters of a checkpoint's optimizers, each a torch optimizer's state dict.

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
    found: list[OptimizerState] = []
    remaining = iter(names)
    for raw in raws:
        numbers = [number for group in raw["param_groups"] for number in group["params"]]
        found.append(_with_names(raw, dict(zip(numbers, remaining, strict=False))))
    told = {name for raw in raws for group in raw["param_groups"] for name in group.get("param_names") or ()}
    if told and not {*bare_names(told).values()} & (in_module.keys() - shapes.keys()):
        return tuple(replace(state, is_told_as_filed=True) for state in found)
    return tuple(found)


def without_record(states: Sequence[OptimizerState], names: Collection[str]) -> list[str]:
    """The parameters without a record, in a group or in none, where others have one: frozen, or lost."""
    recorded = {name for state in states for name in state.state}
    return sorted(set(names) - recorded) if recorded else []


def _slots(index: int, raw: Mapping[str, Any]) -> list[Slot]:
    """An optimizer's numbered parameters, checked."""
    if not isinstance(raw.get("state"), dict) or not isinstance(raw.get("param_groups"), list):
        raise OptimizerError(f"holds {listing(raw)}, expected torch's 'state' and 'param_groups'")
    state: dict[Any, dict[str, Any]] = raw["state"]
    numbers = [number for group in raw["param_groups"] for number in group["params"]]
    stray = set(state) - set(numbers)
    if stray or len(set(numbers)) != len(numbers):
        raise OptimizerError(f"state of parameters {listing(stray or numbers)}, expected each in one group")
    quantised = {key for record in state.values() for key in record if QUANTISED.match(str(key))}
    if quantised:
        raise OptimizerError(
            f"holds 8-bit states ({listing(quantised)}), expected floating-point ones; turn them into those "
            "of a 32-bit optimizer first (bitsandbytes.functional.dequantize_blockwise; state1 is exp_avg, state2 "
            "exp_avg_sq), or leave the optimizer out with ⟦reset optimizer⟧"
        )
    return [
        Slot(index, position, state.get(number, {}))
        for position, group in enumerate(raw["param_groups"])
        for number in group["params"]
    ]


def _named(
    raws: Sequence[Mapping[str, Any]],
    slots: Sequence[Slot],
    shapes: Mapping[str, Shape],
    order: Sequence[str] | None,
    in_module: Mapping[str, str],
) -> list[str]:
    if order is not None:
        with at("names in ⟦param_order⟧"):
            return by_names(order, slots, shapes, in_module)
    names_of = [group.get("param_names") for raw in raws for group in raw["param_groups"]]
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


def _places(raws: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Each group's optimizer and number there."""
    return [(index, number) for index, raw in enumerate(raws) for number in range(len(raw["param_groups"]))]


def _with_names(raw: Mapping[str, Any], name_of: Mapping[Any, str]) -> OptimizerState:
    kept = {"params", "param_names"}
    groups = tuple(
        ParameterGroup(
            {key: value for key, value in group.items() if key not in kept},
            tuple(name_of[number] for number in group["params"]),
            "param_names" in group,
        )
        for group in raw["param_groups"]
    )
    other = {key: value for key, value in raw.items() if key not in ("state", "param_groups")}
    return OptimizerState(groups, {name_of[number]: record for number, record in raw["state"].items()}, other)
