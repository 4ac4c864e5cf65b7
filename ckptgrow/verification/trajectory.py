"""Real optimizer steps in both models, each from its own stored state: no sharper test of a whole state is known.

Dropout is off, nothing is clipped, learning rates are those of the groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from ckptgrow.checkpoints.optimizer import OptimizerState, ParameterGroup
from ckptgrow.checkpoints.tensors import LazyTensor, whole
from ckptgrow.errors import OptimizerError
from ckptgrow.families.state import TrainingState
from ckptgrow.verification.samples import loss_of

ADAM_OPTIONS = ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize")
SGD_OPTIONS = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")


def losses(
    model: PreTrainedModel, state: TrainingState, batches: Sequence[torch.Tensor], num_steps: int
) -> list[float]:
    """The loss before each of `num_steps` optimizer steps, and after the last; batches repeat in order."""
    optimizers = [_optimizer(model, state, one) for one in state.optimizers]
    found: list[float] = []
    for step in range(num_steps + 1):
        tokens = batches[step % len(batches)]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model, tokens)
        found.append(float(loss.detach()))
        if step < num_steps:
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
    return found


def _optimizer(model: PreTrainedModel, state: TrainingState, stored: OptimizerState) -> torch.optim.Optimizer:
    canonical = {one.name: one.canonical for one in state.claim.parameters}
    parameters = dict(model.named_parameters())
    groups = [
        {"params": [parameters[canonical[name]] for name in group.names], **_options(group)} for group in stored.groups
    ]
    optimizer = _class_of(stored, state.where)(groups)
    for name, record in stored.state.items():
        parameter = parameters[canonical[name]]
        optimizer.state[parameter] = {key: _value(key, value, parameter) for key, value in record.items()}
    return optimizer


def _class_of(stored: OptimizerState, where: str) -> Callable[[list[dict[str, Any]]], torch.optim.Optimizer]:
    options: Mapping[str, Any] = stored.groups[0].options
    if "betas" in options:
        return torch.optim.Adam if options.get("decoupled_weight_decay") is False else torch.optim.AdamW
    if "momentum" in options:
        return torch.optim.SGD
    raise OptimizerError(
        f"{where}: no optimizer known for these groups, expected Adam, AdamW or SGD; leave --steps out"
    )


def _options(group: ParameterGroup) -> dict[str, Any]:
    names = ADAM_OPTIONS if "betas" in group.options else SGD_OPTIONS
    options = {name: group.options[name] for name in names if group.options.get(name) is not None}
    return {name: float(whole(value)) if isinstance(value, LazyTensor) else value for name, value in options.items()}


def _value(key: str, value: Any, parameter: torch.Tensor) -> Any:
    if key == "step":
        return torch.tensor(float(whole(value)) if isinstance(value, LazyTensor) else float(value))
    return whole(value).to(parameter) if isinstance(value, LazyTensor) else value
