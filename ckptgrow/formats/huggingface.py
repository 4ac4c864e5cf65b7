"""Hugging Face directories, their weights and optimizers in files.

A model (`config.json` and its weights); a Trainer's checkpoint, which adds `optimizer.pt`, `scheduler.pt`,
`trainer_state.json` and more; what accelerate's `save_state` writes (`optimizer.bin`, `scheduler.bin`,
`random_states_0.pkl`, no config), under FSDP with FULL_STATE_DICT also `pytorch_model_fsdp.bin`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ckptgrow.errors import CheckpointError, at, listing
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.model_cards import write_card
from ckptgrow.formats.raw_optimizers import RawOptimizer, raw_optimizer
from ckptgrow.formats.sidecar_files import (
    OF_ONE_PROCESS,
    TRAINER_STATE,
    Files,
    files_of,
    named_files,
    part_files,
    read_beside,
    read_state,
    read_tensors,
    write_beside,
    write_growth,
)
from ckptgrow.progress import Advance
from ckptgrow.storage.archives import archive_writing
from ckptgrow.storage.files.safetensor_files import INDEX_SUFFIX, outlines, read_file, read_index, read_shards
from ckptgrow.storage.files.targets import DEFAULT_SHARD_BYTES
from ckptgrow.storage.files.tensor_writing import fill
from ckptgrow.storage.tensors import LazyTensor, Stored, num_bytes
from ckptgrow.storage.tree import Tree

SAFETENSORS, TORCH, FULL_STATE = "model.safetensors", "pytorch_model.bin", "pytorch_model_fsdp.bin"


@dataclass(frozen=True)
class HuggingFaceFormat:
    """Hugging Face directories as a format; `max_shard_bytes`: the largest file of weights that is written."""

    max_shard_bytes: int = DEFAULT_SHARD_BYTES
    kind: str = "huggingface"

    def recognises(self, path: Path) -> bool:
        """Whether `path` is a directory with weights, or with one process's part of them, which reading refuses."""
        return path.is_dir() and bool(
            _weight_files(path) or any(OF_ONE_PROCESS.fullmatch(one.name) for one in path.iterdir())
        )

    def read(self, path: Path) -> Checkpoint:
        """Reads a directory; raises CheckpointError where a file is missing or malformed."""
        tensors, weight_files, metadata = _weights(path)
        optimizers = part_files(path, "optimizer")
        states = tuple(_optimizer(path / name) for name in optimizers)
        has_full_state = FULL_STATE in weight_files
        weights = ((FULL_STATE,) if has_full_state else ()) + (
            (SAFETENSORS,) if len(weight_files) > has_full_state else ()
        )
        is_accelerates = has_full_state or any(name.endswith(".bin") for name in optimizers)
        other_kind = "accelerate" if is_accelerates else self.kind
        kind = "trainer" if (path / TRAINER_STATE).exists() else other_kind
        files = Files(
            weights=weights, optimizers=optimizers, schedulers=part_files(path, "scheduler"), metadata=metadata
        )
        beside = read_beside(path, kind, {*weight_files, *optimizers}, files)
        return replace(beside, tensors=tensors, optimizers=states)

    def write(self, checkpoint: Checkpoint, path: Path, advance: Advance) -> None:
        """Writes a directory: grown config and weights, optimizers and schedulers where there are, the rest copied."""
        self.write_with(checkpoint, path, advance, {})

    def write_with(self, checkpoint: Checkpoint, path: Path, advance: Advance, others: Mapping[str, Tree]) -> None:
        """The same with further files that hold what torch saves, each by its name."""
        path.mkdir()
        files = files_of(checkpoint)
        parts = write_beside(checkpoint, path)
        states = [one.to_torch() for one in checkpoint.optimizers]
        parts += [archive_writing.outline(*one) for one in named_files(files.optimizers, "optimizer.pt", states, path)]
        parts += [archive_writing.outline(tree, path / name) for name, tree in others.items()]
        if FULL_STATE in files.weights:
            parts.append(archive_writing.outline(dict(checkpoint.tensors), path / FULL_STATE))
        if files.weights != (FULL_STATE,):
            metadata = {"format": "pt", **files.metadata}
            parts += outlines(path, "model", once(checkpoint.tensors), self.max_shard_bytes, metadata)
        fill(parts, advance)
        write_growth(checkpoint, path)
        write_card(checkpoint, path)


def _optimizer(path: Path) -> RawOptimizer:
    state = read_state(path)
    with at(path):
        return raw_optimizer(state)


def _weight_files(path: Path) -> list[str]:
    """The files that lead to the weights, in the order in which they are preferred."""
    candidates = (FULL_STATE, SAFETENSORS, SAFETENSORS + INDEX_SUFFIX, TORCH, TORCH + INDEX_SUFFIX)
    return [name for name in candidates if (path / name).is_file()]


def _weights(path: Path) -> tuple[dict[str, LazyTensor], set[str], dict[str, str]]:
    """The tensors, the names of the files that hold them, and the files' metadata.

    Beside an FSDP run's full state, which it resumes from, the same weights may lie in safetensors.
    """
    found = _weight_files(path)
    if not found:
        return {}, set(), {}
    if found[0] != FULL_STATE:
        return weights_from(path, found[0])
    tensors = read_tensors(path / FULL_STATE)
    beside = [name for name in found if name in (SAFETENSORS, SAFETENSORS + INDEX_SUFFIX)]
    if not beside:
        return tensors, {FULL_STATE}, {}
    copies, names, metadata = weights_from(path, beside[0])
    odd = [name for name, one in copies.items() if _form(tensors.get(name)) != _form(one)]
    if odd:
        raise CheckpointError(
            f"{path}: {FULL_STATE} and {beside[0]} disagree on {listing(odd)}, expected the same weights; remove the "
            "one that is not meant"
        )
    return tensors, {FULL_STATE, *names}, metadata


def _form(tensor: LazyTensor | None) -> tuple[object, ...]:
    return (tensor.shape, tensor.dtype) if tensor is not None else ()


def weights_from(path: Path, name: str) -> tuple[dict[str, LazyTensor], set[str], dict[str, str]]:
    """The tensors in one file, or in the shards of its index, with the files' names and metadata."""
    if name == SAFETENSORS:
        tensors, metadata = read_file(path / name)
        return tensors, {name}, metadata
    if name == SAFETENSORS + INDEX_SUFFIX:
        tensors, metadata = read_index(path / name)
        return tensors, {name, *_files_of(tensors)}, metadata
    if name == TORCH:
        return read_tensors(path / name), {name}, {}
    found = read_shards(path / name, read_tensors)
    return found, {name, *_files_of(found)}, {}


def _files_of(tensors: Mapping[str, LazyTensor]) -> set[str]:
    return {tensor.path.name for tensor in tensors.values() if isinstance(tensor, Stored)}


def bytes_of_second_copy(checkpoint: Checkpoint) -> int:
    """The bytes of a second file with the same weights, where the checkpoint has one."""
    twice = {FULL_STATE, SAFETENSORS} <= {*files_of(checkpoint).weights}
    return sum(num_bytes(tensor) for tensor in once(checkpoint.tensors).values()) if twice else 0


def once(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Tied tensors under their first name alone, as save_pretrained writes them."""
    seen: set[int] = set()
    distinct: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            distinct[name] = tensor
    return distinct
