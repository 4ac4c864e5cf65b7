"""The losses over real optimizer steps in both models, each from its own stored state: a test of the whole state.

Dropout is off, no gradient is clipped, and learning rates are those that the groups hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from ckptgrow.errors import OptimizerError, listing
from ckptgrow.formats.bitsandbytes_records import CODE_MAPS
from ckptgrow.state.opening import TrainingState
from ckptgrow.state.optimizer_kinds import keys_in
from ckptgrow.state.optimizer_state import OptimizerState, ParameterGroup
from ckptgrow.storage.tensors import is_lazy, whole
from ckptgrow.verification.optimizers import RULES, StepRule, step_rule
from ckptgrow.verification.samples import loss_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PLAIN = 5  # up to this length of its average RAdam does not divide by it
OF_WHOLE_TENSORS = ("Adafactor", "Adafactor of transformers", "Muon", "NorMuon", "SOAP", "LAMB")
IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")


def losses(
    model: PreTrainedModel, state: TrainingState, batches: Sequence[torch.Tensor], num_steps: int
) -> list[float]:
    """The loss in nats before each of `num_steps` optimizer steps and after the last; batches repeat in order.

    Raises OptimizerError where no optimizer is known for the stored groups.
    """
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


def step_rounding(state: TrainingState) -> float:
    """By how much losses may differ because an optimizer computes its steps in less than the weights' dtype."""
    rules = (rule for stored in state.optimizers for rule in _rules(stored))
    return max((rule.step_rounding for rule in rules if rule), default=0.0)


def takes_plain_steps(state: TrainingState) -> bool:
    """Whether RAdam's next step of some parameter is not yet divided by the root of its second moment.

    That begins where ρ_t = ρ_∞ − 2 t β₂^t / (1 − β₂^t) is above 5, ρ_∞ = 2 / (1 − β₂) − 1 (Liu et al., "On the Variance
    of the Adaptive Learning Rate and Beyond", arXiv 1908.03265, algorithm 2).
    """
    for stored in state.optimizers:
        if any(rule is not None and rule.name == "RAdam" for rule in _rules(stored)):
            for group in stored.groups:
                decay = float(group.options["betas"][1])
                taken = (stored.state.get(name, {}).get("step", 0.0) for name in group.names)
                steps = (1 + float(whole(one) if is_lazy(one) else one) for one in taken)
                if any(2 / (1 - decay) - 1 - 2 * t * decay**t / (1 - decay**t) <= PLAIN for t in steps):
                    return True
    return False


def updates_whole_tensors(state: TrainingState) -> bool:
    """Whether an update of one row depends on the others: by the size of the tensor, or of its whole update."""
    return any(rule is not None and rule.name in OF_WHOLE_TENSORS for one in state.optimizers for rule in _rules(one))


def _rules(stored: OptimizerState) -> set[StepRule | None]:
    return {step_rule(group.options, keys_in(stored, group)) for group in stored.groups}


def _optimizer(model: PreTrainedModel, state: TrainingState, stored: OptimizerState) -> torch.optim.Optimizer:
    canonical = {one.name: one.canonical for one in state.claim.parameters}
    parameters = dict(model.named_parameters(remove_duplicate=False))  # a tied head has two names
    groups = [
        {"params": [parameters[canonical[name]] for name in group.names], **_options(group)} for group in stored.groups
    ]
    builds = {None if rule is None else rule.build for rule in _rules(stored)}  # some have groups of two kinds
    build = builds.pop() if len(builds) == 1 else None
    if build is None:
        known = listing({one.name for one in RULES if one.build}, limit=len(RULES))
        raise OptimizerError(
            f"{state.where}: no optimizer known for these groups, expected one of {known}; leave ⟦steps⟧ out"
        )
    optimizer = build(groups)
    for name, record in stored.state.items():
        parameter = parameters[canonical[name]]
        optimizer.state[parameter] = {
            key: _value(value, parameter) for key, value in record.items() if key not in CODE_MAPS
        }
    if hasattr(optimizer, "train"):  # schedule-free: steps are taken from another point than the one that is stored
        cast(Any, optimizer).train()
    return optimizer


def _options(group: ParameterGroup) -> dict[str, Any]:
    """A group's options without those that choose an implementation, which depend on the machine."""
    options = {name: value for name, value in group.options.items() if name not in IMPLEMENTATION}
    return {name: float(whole(value)) if is_lazy(value) else value for name, value in options.items()}


def _value(value: Any, parameter: torch.Tensor) -> Any:
    """An entry of a record as the optimizer needs it: a number as a CPU tensor, others like their parameter."""
    if isinstance(value, list):
        return [_value(one, parameter) for one in value]
    if is_lazy(value):
        return whole(value).to(parameter) if value.shape else whole(value).clone()
    return torch.tensor(float(value)) if isinstance(value, int | float) else value
