"""Hugging Face directories: a model (`config.json` and its weights), or a Trainer's checkpoint, which adds
`optimizer.pt`, `scheduler.pt`, `trainer_state.json` and more.

Files that need not change (tokenizer, generation config, random states, `training_args.bin`, which is a pickle of code)
are copied as bytes and never opened. A Trainer finds its place in the data by `trainer_state.json`'s `global_step`, so
that stays as it is; where growth moved the schedule's clock, `ckptgrow.json` says to which step.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ckptgrow.checkpoints import archive
from ckptgrow.checkpoints.checkpoint import Advance, Checkpoint
from ckptgrow.checkpoints.safetensor_files import INDEX_SUFFIX, read_file, read_index, write_shards, write_text
from ckptgrow.checkpoints.tensors import LazyTensor
from ckptgrow.errors import CheckpointError, listing

CONFIG, TRAINER_STATE = "config.json", "trainer_state.json"
OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"
GROWTH = "ckptgrow.json"
SAFETENSORS, TORCH = "model.safetensors", "pytorch_model.bin"
DEFAULT_SHARD_BYTES = 5 * 10**9
UNDERSTOOD = (CONFIG, OPTIMIZER, SCHEDULER, GROWTH)


@dataclass(frozen=True)
class HuggingFaceFormat:
    """See the module's head; `max_shard_bytes` bounds the files of weights that are written."""

    max_shard_bytes: int = DEFAULT_SHARD_BYTES
    kind: str = "huggingface"

    def recognises(self, path: Path) -> bool:
        """A directory with a config and weights."""
        return path.is_dir() and _weight_files(path) is not None

    def read(self, path: Path) -> Checkpoint:
        """Reads a directory; raises CheckpointError where a file is missing or malformed."""
        tensors, weight_files, metadata = _weights(path)
        trainer_state = _json(path / TRAINER_STATE) if (path / TRAINER_STATE).exists() else None
        optimizer, scheduler = (
            (_torch_dict(path / name),) if (path / name).exists() else () for name in (OPTIMIZER, SCHEDULER)
        )
        growth = _json(path / GROWTH) if (path / GROWTH).exists() else {}
        changed = {*UNDERSTOOD, *weight_files}
        return Checkpoint(
            path=path,
            kind="trainer" if trainer_state is not None else self.kind,
            tensors=tensors,
            config=_json(path / CONFIG) if (path / CONFIG).exists() else None,
            optimizers=optimizer,
            schedulers=scheduler,
            global_step=growth.get("global_step", trainer_state.get("global_step") if trainer_state else None),
            epoch=trainer_state.get("epoch") if trainer_state else None,
            growth=growth,
            rest=Carried(path, _others(path, changed), metadata),
            data_position=trainer_state.get("global_step") if trainer_state else None,
            order="module",
        )

    def write(self, checkpoint: Checkpoint, path: Path, advance: Advance) -> None:
        """Writes a directory: grown config and weights, optimizer and scheduler where there are, the rest copied."""
        path.mkdir()
        carried = checkpoint.rest if isinstance(checkpoint.rest, Carried) else Carried(path, (), {})
        for name in carried.files:
            shutil.copy2(carried.directory / name, path / name)
        for name, content in carried.made.items():
            write_text(path / name, json.dumps(content, indent=2) + "\n")
        if checkpoint.config is not None:
            write_text(path / CONFIG, json.dumps(checkpoint.config, indent=2, sort_keys=True) + "\n")
        distinct = _once(checkpoint.tensors)
        metadata = {"format": "pt", **carried.metadata}
        write_shards(path, "model", distinct, self.max_shard_bytes, metadata, advance)
        for name, states in ((OPTIMIZER, checkpoint.optimizers), (SCHEDULER, checkpoint.schedulers)):
            if states:
                archive.write(dict(states[0]), path / name, advance)
        if checkpoint.growth:
            write_text(path / GROWTH, json.dumps(checkpoint.growth, indent=2) + "\n")
        for file in path.iterdir():
            _flush(file)


@dataclass(frozen=True)
class Carried:
    """Files that go along as bytes, by name in their directory, the weights' own metadata, and JSON files to make."""

    directory: Path
    files: tuple[str, ...]
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    made: Mapping[str, Any] = field(default_factory=dict[str, Any])


def _weight_files(path: Path) -> str | None:
    """The file that leads to the weights."""
    candidates = (SAFETENSORS, SAFETENSORS + INDEX_SUFFIX, TORCH, TORCH + INDEX_SUFFIX)
    return next((name for name in candidates if (path / name).is_file()), None)


def _weights(path: Path) -> tuple[dict[str, LazyTensor], set[str], dict[str, str]]:
    """The tensors, the names of the files that hold them, and the files' metadata."""
    name = _weight_files(path)
    if name is None:
        raise CheckpointError(f"{path}: has no weights, expected {SAFETENSORS} (or shards with an index) or {TORCH}")
    if name == SAFETENSORS:
        tensors, metadata = read_file(path / name)
        return tensors, {name}, metadata
    if name == SAFETENSORS + INDEX_SUFFIX:
        tensors, metadata = read_index(path / name)
        shards = {cast(Any, tensor).path.name for tensor in tensors.values()}
        return tensors, {name, *shards}, metadata
    if name == TORCH:
        return _torch_tensors(path / name), {name}, {}
    weight_map = _json(path / name).get("weight_map", {})
    shards = {str(shard) for shard in weight_map.values()}
    if any(shard != Path(shard).name or not (path / shard).is_file() for shard in shards):
        raise CheckpointError(f"{path / name}: names a shard that is missing or outside its directory")
    found: dict[str, LazyTensor] = {}
    for shard in sorted(shards):
        found |= _torch_tensors(path / shard)
    return found, {name, *shards}, {}


def _torch_tensors(path: Path) -> dict[str, LazyTensor]:
    tree = archive.read(path)
    if not isinstance(tree, dict) or not all(isinstance(value, LazyTensor) for value in tree.values()):
        raise CheckpointError(f"{path}: expected a state dict, names with tensors alone")
    return {str(name): tensor for name, tensor in tree.items()}


def _torch_dict(path: Path) -> dict[str, Any]:
    tree = archive.read(path)
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path}: holds a {type(tree).__name__}, expected a state dict")
    return cast(dict[str, Any], tree)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: is no JSON ({type(error).__name__}), expected an object; copy it again"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: is a {type(value).__name__}, expected a JSON object")
    return cast(dict[str, Any], value)


def _others(path: Path, changed: set[str]) -> tuple[str, ...]:
    names = [one for one in sorted(path.iterdir()) if one.name not in changed]
    leading_out = [one.name for one in names if one.is_symlink() and not one.resolve().is_file()]
    if leading_out:
        raise CheckpointError(f"{path}: {listing(leading_out)} is a broken link; mend or remove it")
    return tuple(one.name for one in names if one.is_file())


def _once(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Tied tensors under their first name alone, as save_pretrained writes them."""
    seen: set[int] = set()
    distinct: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            distinct[name] = tensor
    return distinct


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
