"""A state under the names of a module that holds the model: for Lightning, distributed checkpoints, Composer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ckptgrow.choices import Target
from ckptgrow.conversion.renamed_parts import files_of, renamed, unnamed
from ckptgrow.formats.carried_files import Carried
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.composer_start import PREFIX, as_composers
from ckptgrow.formats.loops import fresh_loops
from ckptgrow.state.claim import Claimed, twins
from ckptgrow.state.decay_units import decoupled_classes
from ckptgrow.state.model import class_path
from ckptgrow.state.opening import TrainingState
from ckptgrow.state.optimizer_kinds import name_of
from ckptgrow.storage.tensors import LazyTensor

LIGHTNING_VERSION = "2.5.0"  # whose layout of `loops` is written; later ones read it


def for_the_same_module(state: TrainingState, to: Target) -> tuple[Checkpoint, list[str]]:
    """Lightning's keys as the other of its kinds keeps them, and what is left out."""
    old = state.checkpoint
    names = {one.name: one.name for one in state.claim.tensors}
    optimizers = renamed(state, names, to)
    new = replace(old, kind=to, tensors=state.stored, config=state.config, optimizers=optimizers)
    if to == old.kind:
        return new, list(old.carried.left_behind)
    return replace(new, carried=Carried(), layout=None), files_of(old)


def for_lightning(state: TrainingState, to: Target, prefix: str) -> tuple[Checkpoint, list[str]]:
    """A checkpoint whose model is called so in its module, and what is left out."""
    old, claimed = state.checkpoint, state.claim
    names = {one.name: prefix + one.state_name(one.layer).removeprefix(one.prefix) for one in claimed.model}
    tensors: dict[str, LazyTensor] = {names[one.name]: old.tensors[one.name] for one in claimed.model}
    tensors |= _twins(state, tensors, names)
    left_out = [*files_of(old), *unnamed(claimed, names)]
    epoch = int(old.position.epoch or 0)
    if old.position.epoch != epoch and old.position.epoch is not None:
        left_out.append(f"the place inside epoch {epoch}")
    step = old.position.global_step or 0
    rest: dict[str, Any] = {
        "epoch": epoch,
        "global_step": step,
        "pytorch-lightning_version": LIGHTNING_VERSION,
        "state_dict": None,
        "loops": fresh_loops(step, epoch),
        "callbacks": {},
        "optimizer_states": None,
        "lr_schedulers": None,
        "hparams_name": "kwargs",
        "hyper_parameters": {},
    }
    new = replace(
        old,
        kind=to,
        tensors=tensors,
        config=state.config,
        optimizers=renamed(state, names, to),
        position=replace(old.position, global_step=step),
        rest=rest,
        carried=Carried(),
        layout=None,
    )
    return new, [name for name in left_out if name != "scaler.pt"]


def for_composer(state: TrainingState) -> tuple[Checkpoint, list[str]]:
    """A file of Composer's, and what is left out."""
    made, left_out = for_lightning(state, "composer", PREFIX)
    (decoupled, *_) = (*decoupled_classes(state.checkpoint), None)
    kind = decoupled or (name_of(state.optimizers[0]) if state.optimizers else None)
    path = class_path(state.config, state.family.head)
    new, others = as_composers(made, path, kind if kind is not None and kind.isidentifier() else None)
    return new, [*left_out, *others]


def _twins(state: TrainingState, tensors: Mapping[str, LazyTensor], names: Mapping[str, str]) -> dict[str, LazyTensor]:
    """Further names of tensors in a module's state dict, such as a tied head's, which safetensors store only once."""
    stored = {one.canonical: one for one in state.claim.model if _has_backbone_prefix(one)}
    found: dict[str, LazyTensor] = {}
    tie = state.family.tie
    tied = twins(state.family, state.config)
    if tie is not None and tie.is_embedding_if_lacking and tie.head not in stored:
        tied[tie.head] = tie.embedding
    for other, name in tied.items():
        if name in stored:
            own = names[stored[name].name]
            found[own.removesuffix(name) + other] = tensors[own]
    return found


def _has_backbone_prefix(one: Claimed) -> bool:
    return one.inner == one.pattern
