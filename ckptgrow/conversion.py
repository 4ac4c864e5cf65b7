"""Between formats: the same parameters, moments and steps under the names and in the places of the other kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ckptgrow.choices import Target, words_of
from ckptgrow.distributed import processes
from ckptgrow.errors import RequestError
from ckptgrow.formats.carried_files import Carried
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.huggingface import DEFAULT_SHARD_BYTES
from ckptgrow.formats.known_formats import check_output, write_checkpoint
from ckptgrow.formats.lightning import SCALER_KEYS, UNDERSTOOD, plain_arguments
from ckptgrow.formats.loops import fresh_loops
from ckptgrow.progress import Progress, silent
from ckptgrow.state.claim import Claimed, twins
from ckptgrow.state.opening import TrainingState, open_state
from ckptgrow.state.optimizer_state import OptimizerState, ParameterGroup
from ckptgrow.storage.tensors import LazyTensor, num_elements

LIKE_LIGHTNING = ("lightning", "dcp")  # both hold Lightning's keys
PREFIX = "model."  # what a LightningModule calls its model, most often
LIGHTNING_VERSION = "2.5.0"  # whose layout of `loops` is written; later ones read it


@dataclass(frozen=True)
class Converted:
    """What a conversion did; `left_out` is what the target cannot hold."""

    out: Path
    kinds: tuple[str, str]
    num_parameters: int
    left_out: tuple[str, ...]


def convert(
    source: str | Path,
    target: str | Path,
    to: Target,
    *,
    config: Path | None = None,
    drop: Sequence[str] = (),
    param_order: Path | None = None,
    prefix: str = PREFIX,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    force: bool = False,
    progress: Progress = silent,
) -> Converted:
    """Writes a checkpoint as another kind, bit for bit where the kind has a place for it.

    `prefix` is put before the model's names in Lightning's kinds. Raises RequestError for an unknown kind,
    CkptgrowError for what is wrong with the source.
    """
    if to not in words_of(Target):
        raise RequestError(f"⟦to {to}⟧: expected {', '.join(words_of(Target))}")
    check_output(Path(source), Path(target), force=force, kind=to)
    processes().wait()  # all have looked before one writes
    state = open_state(Path(source), config=config, drop=drop, param_order=param_order)
    new, left_out = _for(state, to, prefix)
    write_checkpoint(new, Path(target), progress, max_shard_bytes, force=force)
    return Converted(
        out=Path(target),
        kinds=(state.checkpoint.kind, new.kind),
        num_parameters=sum(num_elements(state.checkpoint.tensors[one.name]) for one in state.claim.parameters),
        left_out=tuple(left_out),
    )


def _for(state: TrainingState, to: str, prefix: str) -> tuple[Checkpoint, list[str]]:
    old = state.checkpoint
    is_lightning = old.kind in LIKE_LIGHTNING
    if is_lightning and to in LIKE_LIGHTNING:
        names = {one.name: one.name for one in state.claim.tensors}
        optimizers = [_renamed(one, names, state, always=to == "dcp") for one in state.optimizers]
        converted = tuple(one.to_torch() for one in optimizers)
        new = replace(old, kind=to, tensors=state.stored, config=state.config, optimizers=converted)
        if to == old.kind:
            return new, list(old.left_behind)
        return replace(new, carried=Carried(), layout=None), [*old.carried.files, *old.left_behind]
    if not is_lightning and to == "huggingface":
        kind = old.kind if old.kind in ("huggingface", "trainer") else "huggingface"
        new = replace(old, kind=kind, tensors=state.stored, config=state.config, layout=None)
        new = replace(new, optimizers=old.optimizers[:1], schedulers=old.schedulers[:1])
        return new, [*old.left_behind, *_others(state)]
    return _for_huggingface(state) if to == "huggingface" else _for_lightning(state, to, prefix)


def _others(state: TrainingState) -> list[str]:
    """The optimizers and schedulers that a kind with one of each has no place for."""
    optimizers = [f"optimizer {index}" for index in range(1, len(state.checkpoint.optimizers))]
    return optimizers + [f"scheduler {index}" for index in range(1, len(state.checkpoint.schedulers))]


def _for_huggingface(state: TrainingState) -> tuple[Checkpoint, list[str]]:
    old, claimed = state.checkpoint, state.claim
    names = {one.name: one.bare.removeprefix(one.prefix) for one in claimed.model}
    ordered = [one for one in claimed.in_module_order().tensors if one.name in names and one.name not in claimed.tied]
    rest: Mapping[str, Any] = old.rest
    held = {
        *UNDERSTOOD,
        *SCALER_KEYS,
        "pytorch-lightning_version",
        "hyper_parameters",
        "hparams_name",
        "global_step",
        "epoch",
    }
    left_out = [key for key, value in rest.items() if key not in held and value not in ({}, [], None)]
    arguments = plain_arguments(rest.get("hyper_parameters"))
    left_out += [f"hyper_parameters[{key!r}]" for key in arguments if key != "config"]
    left_out += [*old.carried.files, *old.left_behind, *(one.name for one in claimed.tensors if one.name not in names)]
    left_out += _others(state)
    new = replace(
        old,
        kind="huggingface",
        tensors={names[one.name]: old.tensors[one.name] for one in ordered},
        config=state.config,
        optimizers=tuple(_renamed(one, names, state).to_torch() for one in state.optimizers[:1]),
        schedulers=old.schedulers[:1],
        rest={},
        carried=Carried(),
        layout=None,
    )
    return new, left_out


def _for_lightning(state: TrainingState, to: str, prefix: str) -> tuple[Checkpoint, list[str]]:
    old, claimed = state.checkpoint, state.claim
    names = {one.name: prefix + one.module_name(one.layer).removeprefix(one.prefix) for one in claimed.model}
    tensors: dict[str, LazyTensor] = {names[one.name]: old.tensors[one.name] for one in claimed.model}
    tensors |= _twins(state, tensors, names)
    left_out = [*old.carried.files, *old.left_behind, *(one.name for one in claimed.tensors if one.name not in names)]
    epoch = int(old.epoch or 0)
    if old.epoch != epoch and old.epoch is not None:
        left_out.append(f"the place inside epoch {epoch}")
    step = old.global_step or 0
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
        optimizers=tuple(_renamed(one, names, state, always=to == "dcp").to_torch() for one in state.optimizers),
        global_step=step,
        rest=rest,
        carried=Carried(),
        layout=None,
    )
    return new, [name for name in left_out if name != "scaler.pt"]


def _twins(state: TrainingState, tensors: Mapping[str, LazyTensor], names: Mapping[str, str]) -> dict[str, LazyTensor]:
    """A module's state dict names a tied head, and whatever else is one tensor, under every name, where a directory of
    safetensors stores it once.
    """
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


def _renamed(
    optimizer: OptimizerState, names: Mapping[str, str], state: TrainingState, *, always: bool = False
) -> OptimizerState:
    """The same state under the target's names; they are written too where the target's order would not tell them."""
    in_file_order = [one.name for one in state.claim.parameters]
    known = set(in_file_order)
    in_module_order = [one.name for one in state.claim.in_module_order().tensors if one.name in known]
    needs_names = always or in_file_order != in_module_order
    groups = tuple(
        ParameterGroup(group.options, tuple(names[name] for name in group.names), group.has_param_names or needs_names)
        for group in optimizer.groups
    )
    return replace(optimizer, groups=groups, state={names[name]: record for name, record in optimizer.state.items()})
