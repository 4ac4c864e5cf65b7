"""Brings any checkpoint that growth reads into the form from which a run of ckptgrow's own trainer goes on.

Weights under any prefix, groups in any order and without names, and directories are read by the same code as in growth.
The schedule and the place in the data belong to the other trainer, so the run begins its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch

from ckptgrow.errors import RequestError, listing
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.left_behind import check_left_behind
from ckptgrow.formats.lightning import SCALER_KEYS
from ckptgrow.formats.loops import fresh_loops
from ckptgrow.state.decay_units import decoupled_classes, with_torchs_decay
from ckptgrow.state.model import load_model
from ckptgrow.state.opening import TrainingState, understood
from ckptgrow.state.optimizer_state import OptimizerState
from ckptgrow.storage.tensors import LazyTensor, is_lazy, whole
from ckptgrow.storage.tree import map_leaves
from ckptgrow.train.groups import check_adamw

MODULE = "model."  # what LanguageModel calls its model


@dataclass(frozen=True)
class Adopted:
    """An understood checkpoint, and its optimizer's state under the module's names; None where it begins anew."""

    state: TrainingState
    optimizer: Mapping[str, Any] | None

    @property
    def base_lrs(self) -> list[float]:
        """The peak learning rate of every group."""
        groups = [] if self.optimizer is None else self.optimizer["param_groups"]
        return [float(group.get("initial_lr", group["lr"])) for group in groups]

    def model(self) -> torch.nn.Module:
        """The transformers model with the checkpoint's weights, in float32."""
        return load_model(self.state.checkpoint, self.state.claim, self.state.config)

    def tree(self, weights: Mapping[str, torch.Tensor], step: int) -> dict[str, Any]:
        """The checkpoint that Lightning loads, at a step of the schedule and with a module's weights."""
        schedule = {"last_epoch": step, "_step_count": step + 1, "base_lrs": self.base_lrs, "lr_lambdas": []}
        scaler = self.state.checkpoint.scaler
        return {
            "epoch": 0,
            "global_step": step,
            "pytorch-lightning_version": lightning.__version__,
            "state_dict": dict(weights),
            "loops": fresh_loops(step, 0),
            "callbacks": {},
            "optimizer_states": [] if self.optimizer is None else [self.optimizer],
            "lr_schedulers": [schedule],
            **({SCALER_KEYS[0]: dict(scaler)} if scaler else {}),
        }


def adopted(
    checkpoint: Checkpoint,
    config: Mapping[str, Any] | None,
    *,
    dialect: str | None,
    with_optimizer: bool,
    param_order: Path | None = None,
) -> Adopted:
    """Makes a checkpoint ready to go on from; `config` is its architecture where it holds none, `dialect` and
    `param_order` are those of `open_state`.

    Raises RequestError for an optimizer that is not AdamW or a model that is not causal, and another CkptgrowError for
    what is wrong with the checkpoint.
    """
    if checkpoint.config is None and config:
        checkpoint = replace(checkpoint, config=config)
    if not with_optimizer:
        checkpoint = replace(checkpoint, optimizers=())
    check_left_behind(checkpoint, is_reset=not with_optimizer)
    state = understood(checkpoint, param_order=param_order, dialect=dialect)
    if state.family.head != "causal":
        raise RequestError(f"{checkpoint.path}: is a {state.family.model_type}, expected a causal language model")
    if not state.optimizers:
        return Adopted(state, None)
    check_adamw(state.optimizers, str(checkpoint.path))
    _check_covered(state)
    optimizer, (decoupled, *_) = state.optimizers[0], decoupled_classes(checkpoint)
    if decoupled is not None:
        optimizer, _ = with_torchs_decay(optimizer, decoupled)
    names = {one.name: one.canonical for one in state.claim.model}
    return Adopted(state, map_leaves(_renamed(optimizer, names).to_raw().to_torch(), is_lazy, _value))


def _check_covered(state: TrainingState) -> None:
    """Raises RequestError for parameters that are in no group, because the run would train them."""
    frozen = {one.name for one in state.claim.parameters} - set(state.optimizers[0].names)
    if frozen:
        raise RequestError(
            f"{state.where}: its optimizer has no {listing(frozen)} (frozen, or lost?), expected every parameter; go "
            "on in your own script (see docs/how-to/own-scripts.md), or train all of them with a new one: "
            "⟦reset optimizer⟧"
        )


def _renamed(state: OptimizerState, names: Mapping[str, str]) -> OptimizerState:
    groups = tuple(
        replace(group, names=tuple(names[name] for name in group.names), has_param_names=True) for group in state.groups
    )
    return replace(
        state, keyed_by="number", groups=groups, state={names[name]: record for name, record in state.state.items()}
    )


def _value(tensor: LazyTensor) -> torch.Tensor:
    return whole(tensor).clone()
