"""Hugging Face directories: a model (`config.json` and its weights), or a Trainer's checkpoint, which adds
`optimizer.pt`, `scheduler.pt`, `trainer_state.json` and more.

Files that need not change (tokenizer, generation config, random states, `training_args.bin`, which is a pickle of code)
are copied as bytes and never opened. The same weights in other files, and directories, stay behind. A Trainer finds its
place in the data by `trainer_state.json`'s `global_step`, so that stays as it is; where growth moved the schedule's
clock, `ckptgrow.json` says to which step.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ckptgrow.checkpoints import archive, archive_writing
from ckptgrow.checkpoints.checkpoint import Checkpoint
from ckptgrow.checkpoints.filling import fill
from ckptgrow.checkpoints.parts import checked_optimizers, checked_schedulers, checked_step
from ckptgrow.checkpoints.progress import Advance
from ckptgrow.checkpoints.safetensor_files import INDEX_SUFFIX, outlines, read_file, read_index, write_text
from ckptgrow.checkpoints.tensors import LazyTensor
from ckptgrow.errors import CheckpointError, listing

CONFIG, TRAINER_STATE = "config.json", "trainer_state.json"
OPTIMIZER, SCHEDULER, SCALER = "optimizer.pt", "scheduler.pt", "scaler.pt"
GROWTH = "ckptgrow.json"
SAFETENSORS, TORCH = "model.safetensors", "pytorch_model.bin"
DEFAULT_SHARD_BYTES = 5 * 10**9
UNDERSTOOD = (CONFIG, OPTIMIZER, SCHEDULER, GROWTH)
LARGEST_JSON = 256 * 2**20  # bytes; a log of a million steps is smaller
# the same weights in another form (of before the growth, so they would contradict the grown ones)
OTHER_WEIGHTS = re.compile(
    r".*\.(safetensors|safetensors\.index\.json|h5|msgpack|ot|onnx|gguf|ggml)|(pytorch_)?model.*\.bin(\.index\.json)?"
)


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
        optimizer, scheduler, scaler = (
            (_torch_dict(path / name),) if (path / name).exists() else () for name in (OPTIMIZER, SCHEDULER, SCALER)
        )
        growth = _json(path / GROWTH) if (path / GROWTH).exists() else {}
        others = _others(path, {*UNDERSTOOD, *weight_files})
        left_behind = tuple(name for name in others if (path / name).is_dir() or OTHER_WEIGHTS.fullmatch(name))
        return Checkpoint(
            path=path,
            kind="trainer" if trainer_state is not None else self.kind,
            tensors=tensors,
            config=_json(path / CONFIG) if (path / CONFIG).exists() else None,
            optimizers=checked_optimizers(optimizer, str(path)),
            schedulers=checked_schedulers(scheduler, str(path)),
            global_step=checked_step(
                growth.get("global_step", trainer_state.get("global_step") if trainer_state else None), str(path)
            ),
            epoch=trainer_state.get("epoch") if trainer_state else None,
            growth=growth,
            precision="16-mixed" if scaler else None,
            rest=Carried(path, tuple(name for name in others if name not in left_behind), metadata),
            data_position=trainer_state.get("global_step") if trainer_state else None,
            order="module",
            scaler=scaler[0] if scaler else None,
            left_behind=left_behind,
        )

    def write(self, checkpoint: Checkpoint, path: Path, advance: Advance) -> None:
        """Writes a directory: grown config and weights, optimizer and scheduler where there are, the rest copied."""
        path.mkdir()
        carried = checkpoint.rest if isinstance(checkpoint.rest, Carried) else Carried(path, (), {})
        for name in carried.files:
            shutil.copy2(carried.directory / name, path / name)
        if checkpoint.config is not None:
            write_text(path / CONFIG, json.dumps(checkpoint.config, indent=2, sort_keys=True) + "\n")
        distinct = _once(checkpoint.tensors)
        metadata = {"format": "pt", **carried.metadata}
        scaler = () if checkpoint.scaler is None else (checkpoint.scaler,)
        parts = ((OPTIMIZER, checkpoint.optimizers), (SCHEDULER, checkpoint.schedulers), (SCALER, scaler))
        archives = [
            archive_writing.outline(dict(states[0]), path / name)
            for name, states in parts
            if states and name not in carried.files
        ]
        fill([*outlines(path, "model", distinct, self.max_shard_bytes, metadata), *archives], advance)
        if checkpoint.optimizers and checkpoint.global_step is not None and TRAINER_STATE not in carried.files:
            write_text(path / TRAINER_STATE, json.dumps(_trainer_state(checkpoint), indent=2) + "\n")
        if checkpoint.growth:
            text = json.dumps(checkpoint.growth, indent=2) + "\n"
            source = checkpoint.source
            write_text(path / GROWTH, text.replace(source.placeholder, source.value()) if source else text)
        for file in path.iterdir():
            _flush(file)


@dataclass(frozen=True)
class Carried:
    """Files that go along as bytes, by name in their directory, and the weights' own metadata."""

    directory: Path
    files: tuple[str, ...]
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


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
    if not path.is_file() or path.stat().st_size > LARGEST_JSON:
        raise CheckpointError(f"{path}: is no plain file of at most {LARGEST_JSON} bytes, expected a JSON object")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: is no JSON ({type(error).__name__}), expected an object; copy it again"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: is a {type(value).__name__}, expected a JSON object")
    return cast(dict[str, Any], value)


def _trainer_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """The least that `Trainer.train(resume_from_checkpoint=…)` needs."""
    return {
        "epoch": float(checkpoint.epoch or 0),
        "global_step": checkpoint.global_step,
        "log_history": [],
        "train_batch_size": 1,  # unknown; the Trainer only compares it with its own
        "stateful_callbacks": {"TrainerControl": {"args": {}, "attributes": {}}},
    }


def _others(path: Path, changed: set[str]) -> tuple[str, ...]:
    """Everything else in the directory, sorted; links are followed, for the hub's cache is made of them."""
    names = [one for one in sorted(path.iterdir()) if one.name not in changed]
    special = [one.name for one in names if not one.is_file() and not one.is_dir()]
    if special:
        raise CheckpointError(
            f"{path}: {listing(special)} is a broken link or no plain file, expected files; mend or remove it"
        )
    return tuple(one.name for one in names)


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
