"""Megatron's optimizer in its own layout: entries by name among the tensors, groups without their parameters.

Source: NVIDIA, Megatron-core 0.16.1, `optimizer/optimizer.py`, `optimizer/distrib_optimizer.py` and
`dist_checkpointing/optimizer.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ckptgrow.errors import CheckpointError, RequestError
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.raw_optimizers import Options, RawOptimizer, raw_optimizer
from ckptgrow.storage.tensors import LazyTensor, is_lazy, whole
from ckptgrow.storage.tree import Keys, Tree, node_at

STATE, MASTER, STEP = "optimizer.state.", "fp32_param", "common_step"
COMMON = "common.pt"
STACKED = "decoder.layers."


def records_in(
    entries: Mapping[str, LazyTensor], stored: Mapping[str, LazyTensor], path: Path
) -> dict[str, dict[str, Any]]:
    """The optimizer's entries by parameter, in the model's order; raises CheckpointError for those of no parameter."""
    records: dict[str, dict[str, Any]] = {}
    for key, value in entries.items():
        entry, _, name = key.removeprefix(STATE).partition(".")
        if name not in stored or value.shape != stored[name].shape:
            raise CheckpointError(
                f"{path}: {key} has shape {list(value.shape)} and is no parameter's, expected Megatron's fully "
                "reshardable optimizer; save it in that form"
            )
        records.setdefault(name, {})[entry] = value
    return {name: records[name] for name in stored if name in records}


def groups_in(common: Mapping[str, Tree], path: Path) -> Keys:
    """Where `common.pt` has the groups."""
    for keys in (("optimizer",), ("optimizer", "optimizer")):
        if isinstance(node_at(common, (*keys, "param_groups")), list):
            return keys
    raise CheckpointError(f"{path / COMMON}: has no param_groups under 'optimizer', expected those of one optimizer")


def optimizer_of(
    records: Mapping[str, Mapping[str, Any]], said: Mapping[str, Any], stored: Mapping[str, LazyTensor]
) -> tuple[RawOptimizer, bool]:
    """The optimizer by the model's names, and whether its groups have the step."""
    groups: list[dict[str, Any]] = [dict(group) for group in said["param_groups"]]
    has_steps = any("step" in group for group in groups)
    common = (said.get("state") or {}).get(STEP)
    members = _members(groups, list(records), stored)
    steps = {name: group.get("step", common) for group, names in zip(groups, members, strict=True) for name in names}
    state = {name: {**one, **({} if steps[name] is None else {"step": steps[name]})} for name, one in records.items()}
    told = [
        {**{key: one for key, one in group.items() if key != "step"}, "params": names}
        for group, names in zip(groups, members, strict=True)
    ]
    other = {key: one for key, one in said.items() if key not in ("state", "param_groups")}
    raw = raw_optimizer({**other, "state": state, "param_groups": told})
    return replace(raw, kept_as="flat"), has_steps  # one step for all, as flat parameters have


def _members(groups: list[dict[str, Any]], names: list[str], stored: Mapping[str, LazyTensor]) -> list[list[str]]:
    """The parameters of each group: all, or matrices where it decays and vectors and biases where it does not.

    Raises CheckpointError for other groups, whose parameters the file does not tell.
    """
    if len(groups) == 1:
        return [names]
    decays = [next((bool(group[key]) for key in ("wd_mult", "pre_wd_mult") if key in group), None) for group in groups]
    if sorted(map(str, decays)) != ["False", "True"]:
        raise CheckpointError(
            f"its optimizer has {len(groups)} groups whose parameters are not told, expected one, or one with decay "
            "and one without; leave it out with ⟦reset optimizer⟧"
        )

    return [[name for name in names if is_matrix(name, stored) == does] for does in decays]


def is_matrix(name: str, stored: Mapping[str, LazyTensor]) -> bool:
    """Whether a parameter has several axes, of which a stack of layers is none."""
    return len(stored[name].shape) - name.startswith(STACKED) > 1


def group_options(options: Options, *, has_decay: bool) -> dict[str, Any]:
    """The options of a group as Megatron makes it, from those of an optimizer of torch's: by the first four it finds
    its groups again (`param_group_identifier_keys`).
    """
    made = {
        "wd_mult": float(has_decay),
        "lr_mult": 1.0,
        "is_expert_parallel": False,
        "is_decoupled_lr": False,
        "max_lr": options.get("initial_lr", options.get("lr")),
        "min_lr": 0.0,
        **options,
    }
    return made if has_decay else {**made, "weight_decay": 0.0}


def said_of(checkpoint: Checkpoint, *, has_group_steps: bool) -> dict[str, Any]:
    """The optimizer's part of `common.pt`: groups without parameters, and the step."""
    (raw,) = checkpoint.optimizers[:1]
    _check_members(checkpoint, raw)
    steps = [record["step"] for record in raw.records.values() if "step" in record]
    if any(_number(step) != _number(steps[0]) for step in steps):
        raise RequestError(
            f"{checkpoint.path}: parameters have different steps, expected one: Megatron has one for all"
        )
    at_groups = {"step": steps[0]} if steps and has_group_steps else {}
    groups = [{**group.options, **at_groups} for group in raw.groups]
    state = {} if has_group_steps else {"state": {STEP: steps[0]} if steps else {}}
    return {**raw.other, **state, "param_groups": groups}


def _check_members(checkpoint: Checkpoint, raw: RawOptimizer) -> None:
    """Raises RequestError where groups have other parameters than Megatron gives them when it starts."""
    groups = [dict(group.options) for group in raw.groups]
    names = [str(key) for key in raw.keys]
    try:
        expected = _members(groups, names, checkpoint.tensors)
    except CheckpointError as error:
        raise RequestError(
            f"{checkpoint.path}: the learning rates ask for {len(groups)} groups, expected those that Megatron makes "
            "itself; use ⟦lr_rule keep⟧"
        ) from error
    if [set(map(str, group.keys)) for group in raw.groups] != [set(one) for one in expected]:
        raise RequestError(f"{checkpoint.path}: its groups are others than Megatron makes; use ⟦lr_rule keep⟧")


def _number(step: Any) -> float:
    return float(whole(step) if is_lazy(step) else step)
