"""Converts checkpoints between kinds: the same parameters, moments and steps, under the names of the other kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ckptgrow.addresses.address import local_path
from ckptgrow.choices import Target, words_of
from ckptgrow.data.tokenizer_files import tokenizer_files
from ckptgrow.dialects.target_kinds import families_of, kind_of
from ckptgrow.distributed import processes
from ckptgrow.errors import RequestError
from ckptgrow.formats.carried_files import Carried
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.composer_start import PREFIX as COMPOSERS_PREFIX
from ckptgrow.formats.composer_start import as_composers
from ckptgrow.formats.known_formats import check_output, write_checkpoint
from ckptgrow.formats.lightning import SCALER_KEYS, UNDERSTOOD, plain_arguments
from ckptgrow.formats.loops import fresh_loops
from ckptgrow.formats.raw_optimizers import KeyedBy, RawOptimizer
from ckptgrow.progress import Progress, silent
from ckptgrow.state.averaged_weights import averaged
from ckptgrow.state.claim import Claim, Claimed, twins
from ckptgrow.state.into_dialect import dialect_for, in_dialect
from ckptgrow.state.model import class_path
from ckptgrow.state.opening import TrainingState, open_state
from ckptgrow.state.optimizer_kinds import name_of
from ckptgrow.state.optimizer_state import OptimizerState, ParameterGroup, numbered
from ckptgrow.state.run_data import run_data_of
from ckptgrow.state.translated_optimizers import with_zeros
from ckptgrow.storage.files.targets import DEFAULT_SHARD_BYTES
from ckptgrow.storage.tensors import LazyTensor, num_elements

DIRECTORIES = ("huggingface", "trainer", "accelerate", "fsdp")  # their parts lie in files of one kind
FILE_BY_FILE = ("torch-files", "deepspeed")  # what they carry is told by file and key
LIKE_LIGHTNING = ("lightning", "dcp")  # both hold Lightning's keys
BY_NAME = ("dcp", "composer")  # their optimizers call parameters by name
FORMS = {
    **{"lightning": "Lightning's .ckpt", "huggingface": "a directory with config.json and model.safetensors"},
    **{"dcp": "a directory of torch's distributed checkpoints", "torch": "a file of torch.save"},
    **{"torch-files": "a directory with files of torch.save", "megatron": "a directory of torch_dist"},
}
PREFIX = "model."  # what a LightningModule calls its model, most often
LIGHTNING_VERSION = "2.5.0"  # whose layout of `loops` is written; later ones read it


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What a conversion did: `kinds` before and after; `left_out`: what the target has no place for. `out` is None
    where nothing was written: `checkpoint` is what would have been. `tokenizer`: the run's, whose files lie beside the
    model; None where the checkpoint knows of none.
    """

    out: Path | None
    kinds: tuple[str, str]
    num_parameters: int
    left_out: tuple[str, ...]
    checkpoint: Checkpoint | None = None
    tokenizer: str | None = None


def convert(
    source: str | Path,
    target: str | Path | None,
    to: Target,
    *,
    config: Path | None = None,
    drop: Sequence[str] = (),
    param_order: Path | None = None,
    dialect: str | None = None,
    is_averaged: bool = False,
    prefix: str = PREFIX,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    force: bool = False,
    progress: Progress = silent,
) -> Converted:
    """Writes a checkpoint as another kind, with equal bits for all that this kind has a place for; without a target
    nothing is written, and the result holds what would have been.

    `is_averaged`: takes the average of the weights beside them instead, without optimizers.
    `prefix`: stands before the model's names in Lightning's kinds. Raises RequestError for an unknown kind, and another
    CkptgrowError for what is wrong with the source.
    """
    if to not in words_of(Target):
        raise RequestError(f"⟦to {to}⟧: expected {', '.join(words_of(Target))}")
    source = local_path(source)
    if target is not None:
        check_output(source, Path(target), force=force, kind=kind_of(to))
    processes().wait()  # all have looked before one writes
    state = open_state(source, config=config, drop=drop, param_order=param_order, dialect=dialect)
    if is_averaged:
        state = averaged(state)
    if state.translation is not None:
        state = replace(state, optimizers=tuple(with_zeros(one, state.translation.absent) for one in state.optimizers))
    new, left_out = _for(state, to, prefix)
    tokenizer = run_data_of(state.checkpoint).tokenizer if new.kind == "huggingface" and not new.carried.files else None
    with _told_files(tokenizer, left_out) as files:
        if files:
            new = replace(new, carried=replace(new.carried, files=tuple(files), replaced=files))
        if target is not None:
            write_checkpoint(new, Path(target), progress, max_shard_bytes, force=force)
    return Converted(
        out=None if target is None else Path(target),
        kinds=(state.checkpoint.kind, new.kind),
        num_parameters=sum(num_elements(state.checkpoint.tensors[one.name]) for one in state.claim.parameters),
        left_out=tuple(left_out),
        checkpoint=new if target is None else None,
        tokenizer=tokenizer if files else None,
    )


@contextmanager
def _told_files(tokenizer: str | None, left_out: list[str]) -> Generator[Mapping[str, Path]]:
    """The files of the tokenizer that a checkpoint records; where it is no longer to be had, that is left out."""
    with ExitStack() as stack:
        try:
            files = stack.enter_context(tokenizer_files(tokenizer))
        except (OSError, ValueError, KeyError, TypeError, ImportError):
            files = {}
            left_out.append(f"the tokenizer {tokenizer}, which is not there any more")
        yield files


@dataclass(frozen=True)
class TargetKind:
    """What a conversion writes, and which families it has a way of saying: none are named where it has of all."""

    form: str
    families: tuple[str, ...]


def kinds_of_targets() -> dict[str, TargetKind]:
    """Every word for a target, in the order of the choice."""
    return {to: TargetKind(FORMS[kind_of(to)], families_of(to)) for to in words_of(Target)}


def _for(state: TrainingState, to: Target, prefix: str) -> tuple[Checkpoint, list[str]]:
    old = state.checkpoint
    is_lightning = old.kind in LIKE_LIGHTNING
    if is_lightning and to in LIKE_LIGHTNING:
        names = {one.name: one.name for one in state.claim.tensors}
        optimizers = _renamed(state, names, to)
        new = replace(old, kind=to, tensors=state.stored, config=state.config, optimizers=optimizers)
        if to == old.kind:
            return new, list(old.carried.left_behind)
        return replace(new, carried=Carried(), layout=None), _files(old)
    if old.kind in DIRECTORIES and to == "huggingface":
        kind = old.kind if old.kind in ("huggingface", "trainer") else "huggingface"
        new = replace(old, kind=kind, tensors=state.stored, config=state.config, layout=None)
        optimizers = tuple(map(numbered, old.optimizers[:1]))
        new = replace(new, optimizers=optimizers, schedulers=old.schedulers[:1])
        return new, [*old.carried.left_behind, *_others(state)]
    if to == "composer":
        return _for_composer(state)
    if families_of(to):
        new, left_out = _for_huggingface(_with_names(state))
        made, others = in_dialect(new, state.architecture, dialect_for(to, state.architecture))
        return made, [*left_out, *others]
    return _for_huggingface(state) if to == "huggingface" else _for_lightning(state, to, prefix)


def _with_names(state: TrainingState) -> TrainingState:
    """A state whose optimizers say the names of their parameters wherever they are written."""
    optimizers = tuple(
        replace(one, groups=tuple(replace(group, has_param_names=True) for group in one.groups))
        for one in state.optimizers
    )
    return replace(state, optimizers=optimizers)


def _by_key(files: Mapping[str, Any]) -> dict[str, Any]:
    """What lies in several files, by file and key."""
    return {f"{file}[{key!r}]": value for file, tree in files.items() for key, value in (tree or {}).items()}


def _files(checkpoint: Checkpoint) -> list[str]:
    return [*checkpoint.carried.files, *checkpoint.carried.left_behind]


def _unnamed(claimed: Claim, names: Mapping[str, str]) -> list[str]:
    """Tensors that are not the model's: each by its name, but an average of the weights by how many it has."""
    others = [one for one in claimed.tensors if one.name not in names]
    own = {one.prefix for one in claimed.model}
    counts = Counter(one.prefix for one in others if one.prefix not in own)
    averages = [f"{prefix} ({count} tensors of an average of the weights)" for prefix, count in counts.items()]
    return [*(one.name for one in others if one.prefix in own), *averages]


def _others(state: TrainingState) -> list[str]:
    """The names of optimizers and schedulers beyond the first, for which a kind with one of each has no place."""
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
    unread = _by_key(rest) if old.kind in FILE_BY_FILE else rest
    left_out = [key for key, value in unread.items() if key not in held and value not in ({}, [], None)]
    arguments = plain_arguments(rest.get("hyper_parameters"))
    left_out += [f"hyper_parameters[{key!r}]" for key in arguments if key != "config"]
    left_out += [*_files(old), *_unnamed(claimed, names), *_others(state)]
    new = replace(
        old,
        kind="huggingface",
        tensors={names[one.name]: old.tensors[one.name] for one in ordered},
        config=state.config,
        optimizers=_renamed(state, names, "huggingface")[:1],
        schedulers=old.schedulers[:1],
        rest={},
        carried=Carried(),
        layout=None,
    )
    return new, left_out


def _for_lightning(state: TrainingState, to: Target, prefix: str) -> tuple[Checkpoint, list[str]]:
    old, claimed = state.checkpoint, state.claim
    names = {one.name: prefix + one.state_name(one.layer).removeprefix(one.prefix) for one in claimed.model}
    tensors: dict[str, LazyTensor] = {names[one.name]: old.tensors[one.name] for one in claimed.model}
    tensors |= _twins(state, tensors, names)
    left_out = [*_files(old), *_unnamed(claimed, names)]
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
        optimizers=_renamed(state, names, to),
        position=replace(old.position, global_step=step),
        rest=rest,
        carried=Carried(),
        layout=None,
    )
    return new, [name for name in left_out if name != "scaler.pt"]


def _for_composer(state: TrainingState) -> tuple[Checkpoint, list[str]]:
    made, left_out = _for_lightning(state, "composer", COMPOSERS_PREFIX)
    kind = name_of(state.optimizers[0]) if state.optimizers else None
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


def _renamed(state: TrainingState, names: Mapping[str, str], to: Target) -> tuple[RawOptimizer, ...]:
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
