"""The optimizer's parameter groups: decay and no decay for a new run, a checkpoint's own for one that goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ckptgrow.errors import OptimizerError, RequestError, at, listing
from ckptgrow.formats.raw_optimizers import raw_optimizers
from ckptgrow.state.optimizer_state import OptimizerState, named_states
from ckptgrow.storage.tensors import InMemory
from ckptgrow.storage.tree import map_leaves

Named = tuple[str, torch.nn.Parameter]
ADAMW_RECORD = {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}


def new_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and embeddings decay; biases and norms (whatever has one axis) do not. Frozen ones are in them too."""
    named = list(model.named_parameters())
    matrices: list[Named] = [one for one in named if one[1].dim() > 1]
    vectors: list[Named] = [one for one in named if one[1].dim() <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def parameter_groups(model: torch.nn.Module, checkpoint: Mapping[str, Any], optimizer: int = 0) -> list[dict[str, Any]]:
    """The groups with which to build an optimizer so that it loads the state of a (grown) checkpoint.

    `checkpoint`: what `torch.load` returns for a Lightning file, for a Trainer's `optimizer.pt`, or for a file of your
    own that has its optimizers' states among its keys; `optimizer`: the number of the optimizer to build, where there
    are several. Each group has named `params` and the checkpoint's own options (lr, eps, weight decay, …). Groups
    without `param_names` are matched as in growth: by the orders that trainers use, and by shapes.

        optimizer = torch.optim.AdamW(parameter_groups(model, checkpoint))
        optimizer.load_state_dict(checkpoint["optimizer_states"][0])

    Raises OptimizerError where the groups and the model's parameters do not match, or match in more than one way.
    """
    raws = _states_in(checkpoint)
    parameters = dict(model.named_parameters())
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    with at("the checkpoint"):
        states = named_states(raw_optimizers(map_leaves(list(raws), torch.is_tensor, InMemory)), shapes)
    used = {name for state in states for name in state.names}
    missing = {name for name, parameter in parameters.items() if parameter.requires_grad} - used
    if missing:
        raise OptimizerError(
            f"no group of the checkpoint has the model's {listing(missing)}, expected each in one; freeze what is "
            "frozen (requires_grad_(False)), or build a new optimizer"
        )
    matched, raw = states[optimizer], raws[optimizer]
    return [
        {
            **{key: value for key, value in options.items() if key not in ("params", "param_names")},
            "params": [(name, parameters[name]) for name in group.names],
        }
        for group, options in zip(matched.groups, raw["param_groups"], strict=True)
    ]


def _states_in(checkpoint: Mapping[str, Any]) -> list[Any]:
    """The optimizers' states in a checkpoint; raises OptimizerError where there are none."""
    if "param_groups" in checkpoint:
        return [checkpoint]
    own = [one for one in checkpoint.values() if isinstance(one, Mapping) and "param_groups" in one]
    states = list(checkpoint.get("optimizer_states") or own)
    if not states:
        raise OptimizerError(
            f"the checkpoint has no optimizer's state (param_groups) under {listing(list(map(str, checkpoint)))}, "
            "expected one; give the state itself, as checkpoint[KEY]"
        )
    return states


def check_adamw(states: tuple[OptimizerState, ...], where: str) -> None:
    """Raises RequestError where a checkpoint's optimizer is not AdamW, the only one that this trainer runs."""
    way_out = "go on with it in your own script (see docs/how-to/own-scripts.md), or add ⟦reset optimizer⟧"
    if len(states) != 1:
        raise RequestError(f"{where}: has {len(states)} optimizers, expected one, AdamW; {way_out}")
    for group in states[0].groups:
        options = group.options
        is_coupled = options.get("decoupled_weight_decay") is False and bool(options.get("weight_decay"))
        has_options = {"betas", "eps", "amsgrad"} <= options.keys() and "momentum_decay" not in options
        if not has_options or is_coupled or not ADAMW_RECORD.issuperset(states[0].state_keys):
            kind = "Adam with coupled weight decay" if is_coupled else "another optimizer than AdamW"
            raise RequestError(f"{where}: was trained with {kind}, which `ckptgrow train` does not run; {way_out}")
