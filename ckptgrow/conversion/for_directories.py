"""A state as a directory of transformers' own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ckptgrow.conversion.renamed_parts import files_of, others_than_first, renamed, unnamed
from ckptgrow.formats.carried_files import Carried
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.lightning import SCALER_KEYS, UNDERSTOOD, plain_arguments
from ckptgrow.state.opening import TrainingState
from ckptgrow.state.optimizer_state import numbered

FILE_BY_FILE = ("torch-files", "deepspeed")  # what they carry is told by file and key
HELD = {
    *(*UNDERSTOOD, *SCALER_KEYS, "pytorch-lightning_version", "hyper_parameters", "hparams_name"),
    *("global_step", "epoch"),
}


def for_the_same_directory(state: TrainingState) -> tuple[Checkpoint, list[str]]:
    """A directory whose parts are transformers' already, and what is left out."""
    old = state.checkpoint
    kind = old.kind if old.kind in ("huggingface", "trainer") else "huggingface"
    optimizers = tuple(map(numbered, old.optimizers[:1]))
    new = replace(old, kind=kind, tensors=state.stored, config=state.config, layout=None)
    new = replace(new, optimizers=optimizers, schedulers=old.schedulers[:1])
    return new, [*old.carried.left_behind, *others_than_first(state)]


def for_huggingface(state: TrainingState) -> tuple[Checkpoint, list[str]]:
    """A checkpoint with transformers' own names, and what is left out."""
    old, claimed = state.checkpoint, state.claim
    names = {one.name: one.bare.removeprefix(one.prefix) for one in claimed.model}
    ordered = [one for one in claimed.in_module_order().tensors if one.name in names and one.name not in claimed.tied]
    rest: Mapping[str, Any] = old.rest
    unread = _by_key(rest) if old.kind in FILE_BY_FILE else rest
    left_out = [key for key, value in unread.items() if key not in HELD and value not in ({}, [], None)]
    arguments = plain_arguments(rest.get("hyper_parameters"))
    left_out += [f"hyper_parameters[{key!r}]" for key in arguments if key != "config"]
    left_out += [*files_of(old), *unnamed(claimed, names), *others_than_first(state)]
    new = replace(
        old,
        kind="huggingface",
        tensors={names[one.name]: old.tensors[one.name] for one in ordered},
        config=state.config,
        optimizers=renamed(state, names, "huggingface")[:1],
        schedulers=old.schedulers[:1],
        rest={},
        carried=Carried(),
        layout=None,
    )
    return new, left_out


def _by_key(files: Mapping[str, Any]) -> dict[str, Any]:
    """What lies in several files, by file and key."""
    return {f"{file}[{key!r}]": value for file, tree in files.items() for key, value in (tree or {}).items()}
