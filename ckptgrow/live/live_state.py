"""A checkpoint of living objects: a transformers model, its optimizers and their schedulers, read where they are."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR, MultiplicativeLR
from transformers import PreTrainedModel

from ckptgrow.errors import CheckpointError, OptimizerError, RequestError, at, listing
from ckptgrow.formats.checked_parts import checked_schedulers, checked_step
from ckptgrow.formats.checkpoint import Checkpoint, RunPosition
from ckptgrow.formats.raw_optimizers import RawGroup, RawOptimizer, raw_optimizer
from ckptgrow.growth.training.scheduler_table import clock_of
from ckptgrow.live.live_tensors import live
from ckptgrow.state.claim import twins
from ckptgrow.state.task_heads import family_of_model
from ckptgrow.state.wrappers import ALSO_A_USERS_WORD, WRAPPERS, bare_names
from ckptgrow.storage.tensors import LazyTensor
from ckptgrow.storage.tree import Tree, map_leaves

WHERE = Path("the live model")  # in the place of a checkpoint's path, in messages
INNER = "_schedulers"  # of a scheduler that wraps others, in it and in its state
FUNCTIONS = "lr_lambdas"  # of a LambdaLR or MultiplicativeLR, in it and in its state


@dataclass(frozen=True, kw_only=True)
class LiveState:
    """A model without wrappers, the optimizers of its parameters, the schedulers of their rates, and the steps that the
    run took, where somebody said it.
    """

    model: PreTrainedModel
    optimizers: tuple[torch.optim.Optimizer, ...]
    schedulers: tuple[Any, ...]
    global_step: int | None = None

    @cached_property
    def owned(self) -> Mapping[str, torch.Tensor]:
        """Everything that the model's state dict has, the parameters themselves, by names without wrappers."""
        every = dict(self.model.named_parameters(remove_duplicate=False))
        buffers = dict(self.model.named_buffers(remove_duplicate=False))
        found = {name: every.get(name, buffers.get(name)) for name in self.model.state_dict()}
        strange = [name for name, one in found.items() if one is None]
        if strange:
            raise CheckpointError(
                f"{WHERE}: its state dict has {listing(strange)}, which is not a parameter or buffer of it, expected "
                "transformers' own modules alone"
            )
        bare = bare_names(found)
        return {bare[name]: one for name, one in found.items() if one is not None}

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The model's config, its head tied where it is the embedding's tensor in truth."""
        config: dict[str, Any] = self.model.config.to_dict()
        tie = family_of_model(config, self.owned).tie
        if tie is not None and {tie.head, tie.embedding} <= self.owned.keys():
            config[tie.config] = self.owned[tie.head] is self.owned[tie.embedding]
        return config

    @cached_property
    def name_of(self) -> Mapping[int, str]:
        """Every tensor's name, by its id; raises CheckpointError for two that share one by nobody's rule."""
        names: dict[int, list[str]] = {}
        others = twins(family_of_model(self.config, self.owned), self.config)
        for name, one in self.owned.items():
            names.setdefault(id(one), []).append(name)
        for same in names.values():
            own = [name for name in same if name not in others]
            if len(own) > 1:
                raise CheckpointError(
                    f"{listing(own)} are one tensor, expected no ties but those of transformers' config, for "
                    "nothing says how others grow"
                )
            same.sort(key=lambda name: name in others)
        return {number: same[0] for number, same in names.items()}

    @property
    def device(self) -> torch.device:
        """Where the model is; raises CheckpointError for one that is in several places."""
        devices = {one.device for one in self.owned.values()}
        if len(devices) > 1:
            raise CheckpointError(f"{WHERE}: is spread over {listing(devices)}, expected one device")
        return devices.pop()

    def checkpoint(self) -> Checkpoint:
        """The same as what is read from a file; raises CkptgrowError for what cannot be carried."""
        with at(WHERE):
            read: dict[int, LazyTensor] = {
                number: live(self.owned[name], name) for number, name in self.name_of.items()
            }
            states = [_in_tree(_state_of(one), "a scheduler's tensor") for one in self.schedulers]
            schedulers = checked_schedulers(states)
        return Checkpoint(
            path=WHERE,
            kind="live",
            tensors={name: read[id(one)] for name, one in self.owned.items()},
            config=self.config,
            optimizers=tuple(self._raw(index) for index in range(len(self.optimizers))),
            schedulers=schedulers,
            position=RunPosition(self._step(schedulers)),
        )

    def _step(self, schedulers: Sequence[Mapping[str, Any]]) -> int | None:
        clocks = [clock_of(one) for one in schedulers]
        return checked_step(self.global_step if self.global_step is not None or not clocks else clocks[0])

    def _raw(self, index: int) -> RawOptimizer:
        """An optimizer with its parameters called by name; raises OptimizerError for those of another model."""
        optimizer = self.optimizers[index]
        with at(f"{WHERE}: optimizer {index}"):
            if hasattr(optimizer, "consolidate_state_dict"):
                raise OptimizerError(f"{type(optimizer).__name__} spreads its state over processes, expected it whole")
            raw = raw_optimizer(_in_tree(optimizer.state_dict(), "a tensor of its state"))
            if raw.other:
                raise OptimizerError(f"its state has {listing(raw.other)} beside groups and records, expected torch's")
            groups = zip(raw.groups, optimizer.param_groups, strict=True)
            named = tuple(self._named(number, *one) for number, one in enumerate(groups))
        return replace(raw, groups=named)

    def _named(self, number: int, raw: RawGroup, group: Mapping[str, Any]) -> RawGroup:
        told = group.get("param_names") or [f"parameter {place}" for place in range(len(group["params"]))]
        strange = [
            f"{name} {list(one.shape)}"
            for name, one in zip(told, group["params"], strict=True)
            if id(one) not in self.name_of
        ]
        if strange:
            raise OptimizerError(
                f"group {number} has parameters that are not the model's ({listing(strange)}), expected the optimizer "
                "of this model alone, built after any change to its parameters"
            )
        return replace(raw, names=tuple(self.name_of[id(one)] for one in group["params"]))


def unwrapped_model(model: torch.nn.Module) -> PreTrainedModel:
    """The transformers model inside what torch.compile, DistributedDataParallel and their like put around it.

    Raises RequestError where there is none.
    """
    inner = model
    while not isinstance(inner, PreTrainedModel):
        wrapped = [one for name, one in inner.named_children() if name in {*WRAPPERS, ALSO_A_USERS_WORD}]
        if len(wrapped) != 1:
            raise RequestError(
                f"{type(model).__name__} is not a transformers model, expected one, also inside torch.compile or "
                "DistributedDataParallel; give the model that your module holds"
            )
        inner = wrapped[0]
    return inner


def unwrapped_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside what accelerate and Lightning put around it; raises RequestError for anything else."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise RequestError(f"optimizer is a {type(optimizer).__name__}, expected one of torch's kind")
    return optimizer


def unwrapped_scheduler(scheduler: Any) -> Any:
    """The scheduler inside what accelerate puts around it; raises RequestError for what sets no optimizer's rates."""
    while hasattr(scheduler, "scheduler"):
        scheduler = scheduler.scheduler
    if not hasattr(scheduler, "state_dict") or not hasattr(scheduler, "optimizer"):
        raise RequestError(f"scheduler is a {type(scheduler).__name__}, expected one of torch's kind")
    return scheduler


def _state_of(scheduler: Any) -> dict[str, Any]:
    """A scheduler's state, with the functions themselves, of which torch stores none."""
    state: dict[str, Any] = dict(scheduler.state_dict())
    if isinstance(scheduler, LambdaLR):
        state[FUNCTIONS] = [copy.copy(one) for one in scheduler.lr_lambdas]
    if isinstance(scheduler, MultiplicativeLR):  # factors of the rate before, which no LambdaLR could be run by
        state[FUNCTIONS] = [[copy.copy(one)] for one in scheduler.lr_lambdas]
    if INNER in state:
        state[INNER] = [_state_of(one) for one in getattr(scheduler, INNER)]
    return state


def _in_tree(tree: Any, name: str) -> Tree:
    return map_leaves(tree, torch.is_tensor, lambda one: live(one, name))
