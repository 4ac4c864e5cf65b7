"""The parts of a state under the other kind's names, and the names of those that have no place there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from ckptgrow.choices import Target
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.raw_optimizers import KeyedBy, RawOptimizer
from ckptgrow.state.claim import Claim
from ckptgrow.state.opening import TrainingState
from ckptgrow.state.optimizer_state import OptimizerState, ParameterGroup

BY_NAME = ("dcp", "composer")  # their optimizers call parameters by name


def with_names(state: TrainingState) -> TrainingState:
    """A state whose optimizers say the names of their parameters wherever they are written."""
    optimizers = tuple(
        replace(one, groups=tuple(replace(group, has_param_names=True) for group in one.groups))
        for one in state.optimizers
    )
    return replace(state, optimizers=optimizers)


def files_of(checkpoint: Checkpoint) -> list[str]:
    """The files beside a checkpoint, by name."""
    return [*checkpoint.carried.files, *checkpoint.carried.left_behind]


def unnamed(claimed: Claim, names: Mapping[str, str]) -> list[str]:
    """Tensors that are not the model's: each by its name, but an average of the weights by how many it has."""
    others = [one for one in claimed.tensors if one.name not in names]
    own = {one.prefix for one in claimed.model}
    counts = Counter(one.prefix for one in others if one.prefix not in own)
    averages = [f"{prefix} ({count} tensors of an average of the weights)" for prefix, count in counts.items()]
    return [*(one.name for one in others if one.prefix in own), *averages]


def others_than_first(state: TrainingState) -> list[str]:
    """The names of optimizers and schedulers beyond the first, for which a kind with one of each has no place."""
    optimizers = [f"optimizer {index}" for index in range(1, len(state.checkpoint.optimizers))]
    return optimizers + [f"scheduler {index}" for index in range(1, len(state.checkpoint.schedulers))]


def renamed(state: TrainingState, names: Mapping[str, str], to: Target) -> tuple[RawOptimizer, ...]:
    """The optimizers under the target's names: by name where the target has them so, else by number, and names are
    written beside where the target's order would not tell them.
    """
    in_file_order = [one.name for one in state.claim.parameters]
    known = set(in_file_order)
    in_module_order = [one.name for one in state.claim.in_module_order().tensors if one.name in known]
    needs_names = to in BY_NAME or in_file_order != in_module_order
    return tuple(
        replace(
            one,
            groups=tuple(
                ParameterGroup(
                    group.options, tuple(names[name] for name in group.names), group.has_param_names or needs_names
                )
                for group in one.groups
            ),
            state={names[name]: record for name, record in one.state.items()},
            keyed_by=_keyed_by(one, state.checkpoint.kind, to),
        ).to_raw()
        for one in state.optimizers
    )


def _keyed_by(optimizer: OptimizerState, kind: str, to: Target) -> KeyedBy:
    if to in BY_NAME:
        return "name"
    return optimizer.keyed_by if kind == to else "number"
