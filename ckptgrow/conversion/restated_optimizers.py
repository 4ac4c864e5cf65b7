"""Optimizers in the options of those with which another trainer goes on.

The same word means another thing elsewhere, and a thing has other words:

    weight_decay         of Composer's Decoupled classes: in units of the first rate (`state.decay_units`)
    weight_decay         of torch's Adam and SGD: added to the gradient, where AdamW shrinks the weight
    bias_correction      of apex's and DeepSpeed's FusedAdam: torch's AdamW always corrects
    step                 of FusedAdam: in the group, which torch has in each record
    t_alpha, t_beta3     of bitsandbytes' AdamW: of its other classes

What can be said is restated and told; an optimizer that cannot is left out, and told as well.

Source: apex, `optimizers/fused_adam.py`; Microsoft, DeepSpeed 0.19, `ops/adam/`; bitsandbytes 0.50, `optim/adamw.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ckptgrow.choices import Target
from ckptgrow.conversion.target_kinds import homes_of
from ckptgrow.errors import OptimizerError
from ckptgrow.formats.bitsandbytes_records import CODE_MAPS
from ckptgrow.state.decay_units import decoupled_classes, with_torchs_decay
from ckptgrow.state.opening import TrainingState
from ckptgrow.state.optimizer_kinds import keys_in, name_of, recognised
from ckptgrow.state.optimizer_state import OptimizerState, ParameterGroup
from ckptgrow.storage.tensors import InMemory

ADAMW = "AdamW"
FUSED = ("FusedAdam", "DeepSpeedCPUAdam")
OF_BITSANDBYTES = "AdamW of bitsandbytes"
OF_OTHER_CLASSES = {"bias_correction", "step", "t_alpha", "t_beta3", "alpha"}  # options that torch's AdamW has not
OWN_TRAINERS = ("deepspeed", "megatron")  # kinds whose optimizers no other trainer has


@dataclass(frozen=True)
class Restated:
    """A state whose optimizers are the other trainer's, those that are left out, and what was restated."""

    state: TrainingState
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def restated(state: TrainingState, to: Target) -> Restated:
    """A state for a trainer; its optimizers follow one another as they did."""
    notes: list[str] = []
    classes = decoupled_classes(state.checkpoint)
    made = [
        _restated(optimizer, decoupled, state.checkpoint.kind, to, notes)
        for optimizer, decoupled in zip(state.optimizers, classes, strict=True)
    ]
    left_out = [f"optimizer {index} ({one})" for index, one in enumerate(made) if isinstance(one, str)]
    if left_out and homes_of(to):  # the trainer has one optimizer for all parameters
        left_out += [f"optimizer {index}" for index, one in enumerate(made) if not isinstance(one, str)]
        made = [""] * len(made)
    if to == "composer" and made and not isinstance(made[0], str):
        notes.append(f"Composer looks for an optimizer by its class: give its Trainer {classes[0] or name_of(made[0])}")
    kept = {index: one for index, one in enumerate(made) if not isinstance(one, str)}
    checkpoint = replace(state.checkpoint, optimizers=tuple(state.checkpoint.optimizers[index] for index in kept))
    new = replace(state, optimizers=tuple(kept.values()), checkpoint=checkpoint)
    return Restated(new, tuple(left_out), tuple(dict.fromkeys(notes)))


def _restated(
    optimizer: OptimizerState, decoupled: str | None, kind: str, to: Target, notes: list[str]
) -> OptimizerState | str:
    """One of a checkpoint of a kind, or why the other trainer has no such optimizer."""
    try:
        if decoupled is not None and to != "composer":
            optimizer, told = with_torchs_decay(optimizer, decoupled)
            notes += told
        return _of_trainer(optimizer, kind, to, notes)
    except OptimizerError as reason:
        return reason.message


def _of_trainer(optimizer: OptimizerState, kind: str, to: Target, notes: list[str]) -> OptimizerState:
    """As the optimizer with which a trainer goes on."""
    homes = homes_of(to)
    if to != "composer" and not homes and kind not in OWN_TRAINERS:
        return optimizer  # the user's own script makes it, as before
    found = {_kind_of(optimizer, group) for group in optimizer.groups if group.names}
    others = {*FUSED} if kind in OWN_TRAINERS else {*FUSED, OF_BITSANDBYTES}
    if found and found <= others:
        optimizer = _as_adamw(optimizer, notes)
        found = {ADAMW}
    known = {name for home in homes for name in home.optimizers}
    if not known or found <= known:
        return optimizer
    decays = any(group.options.get("weight_decay") for group in optimizer.groups)
    if found == {"Adam"} and known == {ADAMW} and not decays:
        groups = (group.with_options(decoupled_weight_decay=True) for group in optimizer.groups)
        return replace(optimizer, groups=tuple(groups))
    told = " and ".join(sorted(map(str, found)))
    raise OptimizerError(f"{told}, where {to} goes on with {' or '.join(sorted(known))}")


def _kind_of(optimizer: OptimizerState, group: ParameterGroup) -> str:
    kind = recognised(group.options, keys_in(optimizer, group))
    return "of an unknown class" if kind is None else kind.name


def _as_adamw(optimizer: OptimizerState, notes: list[str]) -> OptimizerState:
    """As torch's AdamW, from a class that makes the same steps."""
    if any(group.options.get("bias_correction") is False for group in optimizer.groups):
        raise OptimizerError(f"{name_of(optimizer)} without bias_correction, which torch's AdamW always has")
    if any(group.options.get("weight_decay") for group in optimizer.groups) and name_of(optimizer) in FUSED:
        notes.append(f"{name_of(optimizer)} does not tell how it decays weights: taken for AdamW's way")
    if name_of(optimizer) == OF_BITSANDBYTES:
        notes.append("bitsandbytes' averages are in 32 bits there, for torch's AdamW")
    records = {
        name: _with_step(_in_numbers(record), group.options)
        for group in optimizer.groups
        for name in group.names
        if (record := optimizer.state.get(name)) is not None
    }
    groups = tuple(replace(group, options=_adamws(group.options)) for group in optimizer.groups)
    kept_as = "flat" if optimizer.kept_as == "flat" else "torch"
    return replace(optimizer, groups=groups, state=records, kept_as=kept_as)


def _in_numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record whose averages are written as numbers, not as codes."""
    return {key: value for key, value in record.items() if key not in CODE_MAPS}


def _with_step(record: dict[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """With the number of steps as torch's AdamW has it."""
    step = record.get("step", options.get("step"))
    return {**record, "step": InMemory(torch.tensor(float(step)))} if isinstance(step, int | float) else record


def _adamws(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a group of torch's AdamW."""
    defaults = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]).defaults
    own = {key: value for key, value in options.items() if key not in OF_OTHER_CLASSES}
    return {**defaults, **own}
