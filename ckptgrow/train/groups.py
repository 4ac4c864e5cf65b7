"""The optimizer's parameter groups: decay and no decay for a new run, a checkpoint's own for one that goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ckptgrow.errors import OptimizerError, listing

Named = tuple[str, torch.nn.Parameter]


def new_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and embeddings decay; biases and norms (whatever has one axis) do not."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    matrices: list[Named] = [one for one in named if one[1].dim() > 1]
    vectors: list[Named] = [one for one in named if one[1].dim() <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def parameter_groups(model: torch.nn.Module, checkpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The groups to build an optimizer with, so that it loads a (grown) checkpoint's state.

    `checkpoint` is what `torch.load` returns: of a Lightning file, or of a Trainer's `optimizer.pt`. Each group has
    named `params` and the checkpoint's own options (lr, eps, weight decay, …). Groups without `param_names` are matched
    by the model's order.

        optimizer = torch.optim.AdamW(parameter_groups(model, checkpoint))
        optimizer.load_state_dict(checkpoint["optimizer_states"][0])

    Raises OptimizerError where the groups and the model's parameters do not match.
    """
    state = checkpoint["optimizer_states"][0] if "optimizer_states" in checkpoint else checkpoint
    parameters = dict(model.named_parameters())
    groups: list[dict[str, Any]] = []
    order = iter(parameters)
    for group in state["param_groups"]:
        names = group.get("param_names") or [next(order, "") for _ in group["params"]]
        found = [_matching(name, parameters) for name in names]
        options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        groups.append({**options, "params": [(name, parameters[name]) for name in found]})
    used = [name for group in groups for name, _ in group["params"]]
    if len(set(used)) != len(used):
        raise OptimizerError(f"the checkpoint's groups name a parameter twice: {listing(set(used))}")
    missing = set(parameters) - set(used)
    if missing:
        raise OptimizerError(f"no group of the checkpoint has the model's {listing(missing)}, expected each in one")
    return groups


def _matching(name: str, parameters: Mapping[str, object]) -> str:
    if name in parameters:
        return name
    found = [one for one in parameters if one.endswith("." + name) or name.endswith("." + one)]
    if len(found) != 1:
        raise OptimizerError(f"the checkpoint's group has {name!r}, expected a parameter of the model")
    return found[0]
