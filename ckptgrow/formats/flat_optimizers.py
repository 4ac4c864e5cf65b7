"""Optimizer states with one key for each entry, as torchtitan saves them:

    state.<parameter>.<entry>           a record's entry
    param_groups.<parameter>.<option>   an option of the parameter's group

Groups have no names there: parameters with equal options are one.

Source: torch, `torch.distributed.checkpoint.state_dict`, `StateDictOptions.flatten_optimizer_state_dict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

from ckptgrow.errors import CheckpointError
from ckptgrow.formats.raw_optimizers import RawOptimizer
from ckptgrow.storage.tree import Tree

STATE, GROUPS = "state.", "param_groups."


def is_flat(raw: Tree) -> TypeGuard[Mapping[str, Tree]]:
    """Whether a state has keys of this kind."""
    return isinstance(raw, dict) and bool(raw) and all(str(key).startswith((STATE, GROUPS)) for key in raw)


def nested(raw: Mapping[str, Tree]) -> dict[str, Tree]:
    """The form of `torch.optim.Optimizer.state_dict()`, its parameters by name in the order of their options.

    Raises CheckpointError for the state of a parameter without options.
    """
    state: dict[str, dict[str, Tree]] = {}
    options: dict[str, dict[str, Tree]] = {}
    for key, value in raw.items():
        is_state = key.startswith(STATE)
        name, _, entry = key.removeprefix(STATE if is_state else GROUPS).rpartition(".")
        (state if is_state else options).setdefault(name, {})[entry] = value
    stray = sorted(set(state) - set(options))
    if stray:
        raise CheckpointError(f"its optimizer has a state of {stray[0]}, expected its param_groups too")
    groups: list[tuple[dict[str, Tree], list[str]]] = []
    for name, given in options.items():
        alike = next((names for group, names in groups if group == given), None)
        if alike is None:
            groups.append((given, [name]))
        else:
            alike.append(name)
    return {"state": state, "param_groups": [{**group, "params": names} for group, names in groups]}


def flattened(raw: RawOptimizer) -> dict[str, Tree]:
    """The reverse."""
    state = {f"{STATE}{name}.{key}": value for name, record in raw.records.items() for key, value in record.items()}
    options = {
        f"{GROUPS}{name}.{key}": value
        for group in raw.groups
        for name in group.keys
        for key, value in group.options.items()
    }
    return {**state, **options}
