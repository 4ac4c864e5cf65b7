"""The parts of a training state beside its tensors, as files of any kind must hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from ckptgrow.errors import CheckpointError, at, listing
from ckptgrow.storage.tensors import is_lazy


def checked_optimizers(value: Any) -> tuple[dict[str, Any], ...]:
    """Optimizers as torch writes them; raises CheckpointError for anything else."""
    for index, one in enumerate(_listed(value, "optimizer states")):
        groups: Any = cast(dict[str, Any], one).get("param_groups") if isinstance(one, dict) else None
        if not isinstance(groups, list) or not all(_is_group(group) for group in cast(list[Any], groups)):
            raise CheckpointError(f"optimizer {index} has no param_groups with params, expected torch's state")
        for group in cast(list[dict[str, Any]], groups):
            with at(f"optimizer {index}"):
                _check_options(group)
        state: Any = cast(dict[str, Any], one).get("state")
        if not isinstance(state, dict) or not all(map(_is_record, cast(dict[Any, Any], state).values())):
            raise CheckpointError(f"optimizer {index} has no state of records, expected torch's state")
    return tuple(value or ())


def checked_schedulers(value: Any) -> tuple[dict[str, Any], ...]:
    """Schedulers as torch writes them; raises CheckpointError for anything else."""
    found = _listed(value, "schedulers")
    for one in found:
        if not isinstance(one, dict):
            raise CheckpointError("has a scheduler that is no dict, expected torch's state")
        checked_step(cast(dict[str, Any], one).get("last_epoch"), "a scheduler's last_epoch", least=-1)
        for key in ("base_lrs", "_last_lr"):
            rates: Any = cast(dict[str, Any], one).get(key, [])
            if not isinstance(rates, list) or not all(map(_is_number, cast(list[Any], rates))):
                raise CheckpointError(f"a scheduler's {key} is {str(rates)[:40]}, expected learning rates")
    return tuple(found)


def checked_step(value: Any, name: str = "global_step", least: int = 0) -> int | None:
    """A count of steps; raises CheckpointError for anything else."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise CheckpointError(f"{name} is {str(value)[:40]!r}, expected a count of steps")
    return value


def _check_options(group: Mapping[str, Any]) -> None:
    """Raises CheckpointError where an option that growth and schedules compute with is no number."""
    for key in ("lr", "initial_lr", "eps", "weight_decay", "momentum"):
        if not _is_option(group.get(key, 0.0)):
            raise CheckpointError(f"{key} is {str(group[key])[:40]}, expected a finite number from 0 on")
    betas = group.get("betas", ())
    if not isinstance(betas, list | tuple) or not all(map(_is_option, cast(list[Any], betas))):
        raise CheckpointError(f"betas are {str(betas)[:40]}, expected finite numbers from 0 on")


def _is_option(value: Any) -> bool:
    """A number that can be; tensors, None and transformers' pairs of ε are told elsewhere."""
    if isinstance(value, list | tuple):
        return all(map(_is_option, cast(list[Any], value)))
    return value is None or is_lazy(value) or (_is_number(value) and 0 <= value < math.inf)


def _is_number(value: Any) -> bool:
    return is_lazy(value) or (isinstance(value, int | float) and not isinstance(value, bool))


def numbered(raws: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Optimizers, given by their places, each with its parameters by number; raises CheckpointError as `by_number`."""
    found: list[dict[str, Any]] = []
    for place, raw in raws.items():
        with at(place):
            found.append(by_number(raw))
    return tuple(found)


def by_number(raw: Any) -> dict[str, Any]:
    """An optimizer's state with its parameters by number, and their names beside them where it has them by name.

    Raises CheckpointError for what is no optimizer's state, and for records of parameters in no group.
    """
    if not isinstance(raw, dict) or not isinstance(raw.get("param_groups"), list):
        raise CheckpointError("has an optimizer without param_groups, expected parameters in groups")
    state = cast(dict[str, Any], raw).get("state", {})
    if not isinstance(state, dict) or not all(map(_is_group, raw["param_groups"])):
        raise CheckpointError("has an optimizer whose groups or state are none, expected torch's state")
    if not has_names(raw):
        return {**raw, "state": _numbered_records(raw, cast(dict[Any, Any], state))}
    named = [key for group in raw["param_groups"] for key in group["params"]]
    stray = set(state) - set(named)
    if stray or len(set(named)) != len(named):
        raise CheckpointError(
            f"its optimizer has the state of {listing(stray or named)}, expected each in one of its groups"
        )
    number = {name: position for position, name in enumerate(named)}
    groups = [
        {**g, "params": [number[n] for n in g["params"]], "param_names": g["params"]} for g in raw["param_groups"]
    ]
    return {**raw, "state": {number[name]: record for name, record in state.items()}, "param_groups": groups}


def has_names(raw: Mapping[str, Any]) -> bool:
    """Whether an optimizer's groups list their parameters by name, as FSDP's full states do."""
    named = [key for group in raw["param_groups"] for key in group["params"]]
    return bool(named) and all(isinstance(key, str) for key in named)


def _numbered_records(raw: Mapping[str, Any], state: Mapping[Any, Any]) -> dict[Any, Any]:
    """Records by number, though their keys be names, or numbers that a distributed checkpoint turned into text."""
    groups = [group for group in raw["param_groups"] if len(group.get("param_names", ())) == len(group["params"])]
    number = {
        name: n for group in groups for n, name in zip(group["params"], group.get("param_names", ()), strict=True)
    }
    return {number.get(key, int(key) if str(key).isdigit() else key): one for key, one in state.items()}


def by_name(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse; what has no names beside its numbers stays as it is."""
    if not all("param_names" in group for group in raw["param_groups"]):
        return dict(raw)
    names = {n: name for g in raw["param_groups"] for n, name in zip(g["params"], g["param_names"], strict=True)}
    groups = [
        {k: v for k, v in g.items() if k != "param_names"} | {"params": g["param_names"]} for g in raw["param_groups"]
    ]
    return {**raw, "state": {names[n]: record for n, record in raw["state"].items()}, "param_groups": groups}


def _listed(value: Any, what: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise CheckpointError(f"{what} are a {type(value).__name__}, expected a list")
    return list(cast(list[Any], value))


def _is_record(record: Any) -> bool:
    return isinstance(record, dict) and all(isinstance(key, str) for key in cast(dict[Any, Any], record))


def _is_group(group: Any) -> bool:
    return _is_record(group) and isinstance(group.get("params"), list)
