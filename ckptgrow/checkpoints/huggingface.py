"""Hugging Face directories, their weights and optimizers in files.

A model (`config.json` and its weights); a Trainer's checkpoint, which adds `optimizer.pt`, `scheduler.pt`,
`trainer_state.json` and more; what accelerate's `save_state` writes (`optimizer.bin`, `scheduler.bin`,
`random_states_0.pkl`, no config), under FSDP with FULL_STATE_DICT also `pytorch_model_fsdp.bin`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ckptgrow.checkpoints import archive_writing
from ckptgrow.checkpoints.checkpoint import Checkpoint
from ckptgrow.checkpoints.directory import (
    TRAINER_STATE,
    named_files,
    part_files,
    read_beside,
    read_state,
    read_tensors,
    write_beside,
    write_growth,
)
from ckptgrow.checkpoints.filling import fill
from ckptgrow.checkpoints.parts import by_name, by_number, checked_optimizers
from ckptgrow.checkpoints.progress import Advance
from ckptgrow.checkpoints.safetensor_files import INDEX_SUFFIX, outlines, read_file, read_index
from ckptgrow.checkpoints.tensors import LazyTensor
from ckptgrow.checkpoints.texts import read_json
from ckptgrow.errors import CheckpointError

SAFETENSORS, TORCH, FULL_STATE = "model.safetensors", "pytorch_model.bin", "pytorch_model_fsdp.bin"
DEFAULT_SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class HuggingFaceFormat:
    """See the module's head; `max_shard_bytes` bounds the files of weights that are written."""

    max_shard_bytes: int = DEFAULT_SHARD_BYTES
    kind: str = "huggingface"

    def recognises(self, path: Path) -> bool:
        """A directory with weights."""
        return path.is_dir() and bool(_weight_files(path))

    def read(self, path: Path) -> Checkpoint:
        """Reads a directory; raises CheckpointError where a file is missing or malformed."""
        tensors, weight_files, metadata = _weights(path)
        optimizers = part_files(path, "optimizer")
        states = [by_number(read_state(path / name), str(path / name)) for name in optimizers]
        weights = tuple(name for name in (FULL_STATE, SAFETENSORS) if name in weight_files)
        names = {"optimizer": optimizers, "weights": weights}
        is_accelerates = FULL_STATE in weights or any(name.endswith(".bin") for name in optimizers)
        other_kind = "accelerate" if is_accelerates else self.kind
        return Checkpoint(
            path=path,
            kind="trainer" if (path / TRAINER_STATE).exists() else other_kind,
            tensors=tensors,
            optimizers=checked_optimizers(states, str(path)),
            **read_beside(path, {*weight_files, *optimizers}, metadata, names),
        )

    def write(self, checkpoint: Checkpoint, path: Path, advance: Advance) -> None:
        """Writes a directory: grown config and weights, optimizers and schedulers where there are, the rest copied."""
        path.mkdir()
        carried = checkpoint.carried
        parts = write_beside(checkpoint, path)
        is_full_state = FULL_STATE in carried.names.get("weights", ())
        states = [by_name(one) for one in checkpoint.optimizers] if is_full_state else checkpoint.optimizers
        parts += [archive_writing.outline(*one) for one in named_files(carried, "optimizer", states, path)]
        if is_full_state:
            parts.append(archive_writing.outline(dict(checkpoint.tensors), path / FULL_STATE))
        if carried.names.get("weights", ()) != (FULL_STATE,):
            metadata = {"format": "pt", **carried.metadata}
            parts += outlines(path, "model", _once(checkpoint.tensors), self.max_shard_bytes, metadata)
        fill(parts, advance)
        write_growth(checkpoint, path)


def _weight_files(path: Path) -> list[str]:
    """The files that lead to the weights; the first one is read, the others hold the same."""
    candidates = (FULL_STATE, SAFETENSORS, SAFETENSORS + INDEX_SUFFIX, TORCH, TORCH + INDEX_SUFFIX)
    return [name for name in candidates if (path / name).is_file()]


def _weights(path: Path) -> tuple[dict[str, LazyTensor], set[str], dict[str, str]]:
    """The tensors, the names of the files that hold them, and the files' metadata."""
    name, *others = _weight_files(path)
    if name == FULL_STATE:
        return read_tensors(path / name), {name, *({SAFETENSORS} & {*others})}, {}
    if name == SAFETENSORS:
        tensors, metadata = read_file(path / name)
        return tensors, {name}, metadata
    if name == SAFETENSORS + INDEX_SUFFIX:
        tensors, metadata = read_index(path / name)
        shards = {cast(Any, tensor).path.name for tensor in tensors.values()}
        return tensors, {name, *shards}, metadata
    if name == TORCH:
        return read_tensors(path / name), {name}, {}
    weight_map = read_json(path / name).get("weight_map", {})
    shards = {str(shard) for shard in weight_map.values()}
    if any(shard != Path(shard).name or not (path / shard).is_file() for shard in shards):
        raise CheckpointError(f"{path / name}: names a shard that is missing or outside its directory")
    found: dict[str, LazyTensor] = {}
    for shard in sorted(shards):
        found |= read_tensors(path / shard)
    return found, {name, *shards}, {}


def _once(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Tied tensors under their first name alone, as save_pretrained writes them."""
    seen: set[int] = set()
    distinct: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            distinct[name] = tensor
    return distinct
