"""Reading torch's distributed checkpoints: the nested state that the metadata describes, its tensors lazy."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata

from ckptgrow.errors import CheckpointError
from ckptgrow.storage.dcp_io.dcp_metadata import read_metadata
from ckptgrow.storage.dcp_io.dcp_pieces import Piece, Pieced, read_object
from ckptgrow.storage.tree import Tree

Nested = dict[Hashable, Tree]
Blocks = dict[tuple[int, ...], tuple[Path, int, int]]  # by a block's first index: its file, offset and length in bytes


class StorageInfo(Protocol):
    """Where torch put an entry: bytes of a file beside the metadata, perhaps packed."""

    relative_path: str
    offset: int
    length: int
    transform_descriptors: Sequence[str] | None


def read(metadata_path: Path) -> dict[str, Tree]:
    """The nested state that a file of metadata describes, its tensors lazy.

    Raises CheckpointError where it is damaged or incomplete, UnsafePickleError where it names code.
    """
    path, metadata = metadata_path.parent, read_metadata(metadata_path)
    entries: dict[str, list[tuple[MetadataIndex, StorageInfo]]] = {}
    for index, info in metadata.storage_data.items():
        entries.setdefault(index.fqn, []).append((index, info))
    flat = {
        name: _value(path, name, entry, _blocks(path, name, entries.get(name, ())))
        for name, entry in metadata.state_dict_metadata.items()
    }
    mapping: Mapping[str, tuple[Hashable, ...]] = metadata.planner_data or {}
    tree: Nested = {}
    for name, value in flat.items():
        keys = tuple(mapping.get(name, (name,)))
        node = tree
        for key in keys[:-1]:
            inner = node.setdefault(key, Nested())
            if not isinstance(inner, dict):
                raise CheckpointError(f"{path}: its metadata puts {name} inside a value that is not a dict")
            node = inner
        node[keys[-1]] = value
    return {str(key): _with_lists(value) for key, value in tree.items()}


def _with_lists(node: Tree) -> Tree:
    """Flattening turned lists into dicts by number; empty keys stay dicts."""
    if not isinstance(node, dict):
        return node
    values = {key: _with_lists(value) for key, value in node.items()}
    is_list = "params" not in values and set(values) == set(range(len(values))) and bool(values)
    return [values[index] for index in range(len(values))] if is_list else values


def _value(path: Path, name: str, entry: object, blocks: Blocks) -> Tree:
    if not isinstance(entry, TensorStorageMetadata):
        if len(blocks) != 1:
            raise CheckpointError(f"{path}: stores {name} {len(blocks)} times, expected once")
        return read_object(*next(iter(blocks.values())))
    dtype, shape = entry.properties.dtype, tuple(entry.size)
    pieces: list[Piece] = []
    for chunk in entry.chunks:
        start = tuple(chunk.offsets)
        if start not in blocks:
            raise CheckpointError(f"{path}: lacks the block of {name} at {list(start)}; copy it again")
        file, offset, length = blocks[start]
        pieces.append(
            Piece(start=start, shape=tuple(chunk.sizes), dtype=dtype, path=file, offset=offset, length=length)
        )
    if not _cover(pieces, shape):
        raise CheckpointError(f"{path}: blocks of {name} do not cover its shape {list(shape)}; copy it again")
    return Pieced(shape, dtype, tuple(pieces))


def _cover(pieces: Sequence[Piece], shape: tuple[int, ...]) -> bool:
    """Whether blocks lie inside a shape and cover it, each entry once."""
    if sum(math.prod(piece.shape) for piece in pieces) != math.prod(shape):
        return False
    filled = [piece for piece in pieces if math.prod(piece.shape)]
    if not shape or not filled:
        return True
    starts = np.array([piece.start for piece in filled])
    stops = starts + np.array([piece.shape for piece in filled])
    if bool((starts < 0).any() or (stops > np.array(shape)).any()):
        return False
    meet = (starts[:, None] < stops[None]) & (starts[None] < stops[:, None])
    return int(meet.all(-1).sum()) == len(filled)


def _blocks(path: Path, name: str, entries: Sequence[tuple[MetadataIndex, StorageInfo]]) -> Blocks:
    found: Blocks = {}
    for index, info in entries:
        file = path / info.relative_path
        if Path(info.relative_path).name != info.relative_path or not file.is_file():
            raise CheckpointError(f"{path}: names the file {info.relative_path!r}, expected one beside the metadata")
        if info.transform_descriptors or info.offset < 0 or info.offset + info.length > file.stat().st_size:
            raise CheckpointError(f"{file}: ends before {name}, or packs it; copy it again")
        found[tuple(index.offset or ())] = (file, info.offset, info.length)
    return found
