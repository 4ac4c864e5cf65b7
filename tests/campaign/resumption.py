"""A grown checkpoint's optimizers, loaded as a script that made them would load them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tests.campaign.files import PREFIX, Reading
from tests.campaign.optimizers import KINDS, Recipe, build
from tests.campaign.outcome import FindingError


def resumed(reading: Reading, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """The real optimizers with the stored state. Raises FindingError where torch refuses it or a group is another."""
    fresh = build(reading.model, recipe)
    if len(fresh) != len(reading.optimizers):
        raise FindingError(f"{len(reading.optimizers)} optimizers are stored, {len(fresh)} were")
    return [_loaded(reading, recipe, one, dict(state)) for one, state in zip(fresh, reading.optimizers, strict=True)]


def _loaded(
    reading: Reading, recipe: Recipe, fresh: torch.optim.Optimizer, state: dict[str, Any]
) -> torch.optim.Optimizer:
    parameters = dict(reading.model.named_parameters())
    names = {id(parameter): name for name, parameter in parameters.items()}
    ruled = [{names[id(one)] for one in group["params"]} for group in fresh.param_groups]
    listed = _names_listed(state, parameters)
    if listed is None:
        optimizer = fresh
    else:
        _same_membership(ruled, listed)
        groups = [{"params": [(name, parameters[name]) for name in group]} for group in listed]
        optimizer = type(fresh)(groups, lr=recipe.lr, **_options_of(fresh, recipe))
        state = _numbered(state, listed)
    try:
        optimizer.load_state_dict(state)
    except (ValueError, KeyError) as error:
        raise FindingError(f"torch does not load the grown optimizer: {error}") from error
    for parameter, record in optimizer.state.items():
        wrong = [key for key, one in record.items() if _misfits(key, one, parameter)]
        if wrong:
            raise FindingError(f"{names[id(parameter)]} {list(parameter.shape)}: {wrong[0]} has another shape")
    return optimizer


def _options_of(fresh: torch.optim.Optimizer, recipe: Recipe) -> dict[str, Any]:
    if isinstance(fresh, torch.optim.Muon):
        return {"weight_decay": 0.1, "eps": 1e-7}
    return dict(KINDS[recipe.kind][2])


def _names_listed(state: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[list[str]] | None:
    groups = state["param_groups"]
    if all("param_names" in group for group in groups):
        return [[_known(name, parameters) for name in group["param_names"]] for group in groups]
    if all(isinstance(one, str) for group in groups for one in group["params"]):
        return [[_known(one, parameters) for one in group["params"]] for group in groups]
    return None


def _known(name: str, parameters: Mapping[str, Any]) -> str:
    """A stored name as the model has it: with or without the LightningModule's own prefix."""
    return name if name in parameters else name.removeprefix(PREFIX)


def _numbered(state: Mapping[str, Any], listed: list[list[str]]) -> dict[str, Any]:
    """Records by number, where they are by name."""
    if all(isinstance(one, int) for group in state["param_groups"] for one in group["params"]):
        return {**state, "param_groups": [dict(one) for one in state["param_groups"]]}
    order = {name: number for number, name in enumerate(name for group in listed for name in group)}
    groups = [
        {**group, "params": [order[name] for name in members]}
        for group, members in zip(state["param_groups"], listed, strict=True)
    ]
    records = {order[_known(name, order)]: record for name, record in state.get("state", {}).items()}
    return {"state": records, "param_groups": groups}


def _same_membership(ruled: list[set[str]], listed: list[list[str]]) -> None:
    """Each stored group lies within one group of the rule, and all are there (`mup` splits groups)."""
    everything = [name for group in listed for name in group]
    lost = set().union(*ruled) ^ set(everything)
    if lost or len(everything) != len(set(everything)):
        raise FindingError(f"groups lose, repeat or invent {sorted(lost)[:3]}")
    for group in listed:
        if group and not any(set(group) <= one for one in ruled):
            raise FindingError(f"a group mixes parameters of two: {group[:4]}")


def _misfits(key: str, value: Any, parameter: torch.Tensor) -> bool:
    whole = key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "grad_avg", "sum")
    return whole and isinstance(value, torch.Tensor) and value.shape != parameter.shape


def records(optimizers: list[torch.optim.Optimizer], reading: Reading) -> dict[str, dict[str, Any]]:
    """Every parameter's record, by name."""
    found = {id(parameter): record for one in optimizers for parameter, record in one.state.items()}
    return {name: found[id(p)] for name, p in reading.model.named_parameters() if id(p) in found}
