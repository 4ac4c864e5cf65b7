"""Grown optimizers and schedulers, of the old ones' classes, over the grown model's parameters."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch.optim.lr_scheduler import LambdaLR

from ckptgrow.errors import OptimizerError, at
from ckptgrow.formats.raw_optimizers import RawOptimizer
from ckptgrow.live.live_state import FUNCTIONS, INNER, WHERE
from ckptgrow.live.live_tensors import made_in
from ckptgrow.storage.tensors import is_lazy

CPU = torch.device("cpu")
NAMES = "param_names"


def rebuilt_optimizer(
    old: torch.optim.Optimizer, grown: RawOptimizer, parameters: Mapping[str, torch.nn.Parameter]
) -> torch.optim.Optimizer:
    """An optimizer of the old one's class with the grown groups and records; a record's entries lie where those of the
    old ones do.

    Raises OptimizerError for a class that is not built from groups and its defaults.
    """
    has_names = any(NAMES in group for group in old.param_groups)
    groups: list[dict[str, Any]] = []
    for group in grown.groups:
        members = [parameters[name] for name in group.names or ()]
        options = {key: _option(value, key, old) for key, value in group.options.items()}
        named = list(zip(group.names or (), members, strict=True))
        groups.append({**options, "params": named if has_names else members})
    new = _empty(old, groups)
    LambdaLR(new, lambda _: 1.0)  # any scheduler marks the optimizer, and torch warns of one that none has marked
    for group, made_of in zip(new.param_groups, groups, strict=True):
        group.pop("initial_lr", None)
        group.update({key: copy.copy(value) for key, value in made_of.items() if key != "params"})
    places = {key: one.device for record in old.state.values() for key, one in record.items() if torch.is_tensor(one)}
    new.state.clear()
    keys = (key for group in grown.groups for key in group.keys)
    members = (one for group in new.param_groups for one in group["params"])
    for key, parameter in zip(keys, members, strict=True):
        if key in grown.records:
            record = grown.records[key]
            new.state[parameter] = {entry: made_in(one, places.get(entry, CPU)) for entry, one in record.items()}
    return new


def rebuilt_scheduler(old: Any, grown: Mapping[str, Any], replaced: Mapping[int, object]) -> Any:
    """A copy of a scheduler with the grown state, over the new objects in the place of the old ones, which `replaced`
    has by their ids; functions of the step stay the caller's own.
    """
    new = copy.deepcopy(old, dict(replaced))
    new.load_state_dict(_with_functions(new, grown))
    return new


def become_scheduler(old: Any, new: Any) -> None:
    """Gives a scheduler, which stays over its own optimizer, the state and the functions of another."""
    for pair in zip(getattr(old, INNER, ()), getattr(new, INNER, ()), strict=True):
        become_scheduler(*pair)
    if hasattr(old, FUNCTIONS):
        setattr(old, FUNCTIONS, getattr(new, FUNCTIONS))
    old.load_state_dict(new.state_dict())


def _empty(old: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    kind = type(old)
    taken = inspect.signature(kind).parameters
    defaults = {key: copy.copy(value) for key, value in old.defaults.items() if key in taken}
    try:
        new = kind([dict(group) for group in groups], **defaults)
    except (TypeError, ValueError) as error:
        with at(WHERE):
            raise OptimizerError(
                f"no {kind.__name__} could be made of its groups and defaults ({error}), expected a class that is"
            ) from error
    new.defaults.update(old.defaults)
    return new


def _option(value: Any, key: str, old: torch.optim.Optimizer) -> Any:
    """An option of a group, where it is a tensor on the old one's device."""
    if not is_lazy(value):
        return value
    found = next(group[key] for group in old.param_groups if torch.is_tensor(group.get(key)))
    return made_in(value, found.device)


def _with_functions(new: Any, grown: Mapping[str, Any]) -> dict[str, Any]:
    """A state as torch loads it, after its functions were given to the scheduler itself."""
    state: dict[str, Any] = {}
    for key, value in grown.items():
        if key == INNER:
            pairs = zip(getattr(new, INNER), value, strict=True)
            state[key] = [_with_functions(inner, its) for inner, its in pairs]
        elif key == FUNCTIONS:
            listed = cast(list[Any], value)
            setattr(new, FUNCTIONS, [copy.copy(one[0] if isinstance(one, list) else one) for one in listed])
            state[key] = [None] * len(listed)
        else:
            state[key] = copy.deepcopy(made_in(value, CPU))
    return state
