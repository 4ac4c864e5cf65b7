"""Reading torch's distributed checkpoints: the nested state that the metadata describes, its tensors lazy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from ckptgrow.checkpoints.dcp_metadata import read_metadata
from ckptgrow.checkpoints.dcp_pieces import Piece, Pieced, read_object
from ckptgrow.errors import CheckpointError

Places = dict[tuple[int, ...], tuple[Path, int, int]]  # by a block's first index: its file, offset and length in bytes


def read(path: Path, metadata_name: str) -> dict[str, Any]:
    """The nested state in a directory, its tensors lazy.

    Raises CheckpointError where it is damaged or incomplete, UnsafePickleError where it names code.
    """
    metadata = read_metadata(path / metadata_name)
    entries: dict[str, list[tuple[Any, Any]]] = {}
    for index, info in metadata.storage_data.items():
        entries.setdefault(index.fqn, []).append((index, info))
    flat = {
        name: _value(path, name, entry, _places(path, name, entries.get(name, ())))
        for name, entry in metadata.state_dict_metadata.items()
    }
    mapping: Mapping[str, tuple[Any, ...]] = metadata.planner_data or {}
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        keys = tuple(mapping.get(name, (name,)))
        node: Any = tree
        for key in keys[:-1]:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise CheckpointError(f"{path}: its metadata puts {name} inside a value that is no dict")
        node[keys[-1]] = value
    return cast(dict[str, Any], _with_lists(tree))


def _with_lists(node: Any) -> Any:
    """Flattening turned lists into dicts by number; empty keys stay dicts."""
    if not isinstance(node, dict):
        return node
    values = {key: _with_lists(value) for key, value in node.items()}
    is_list = "params" not in values and set(values) == set(range(len(values))) and bool(values)
    return [values[index] for index in range(len(values))] if is_list else values


def _value(path: Path, name: str, entry: Any, places: Places) -> Any:
    if not isinstance(entry, TensorStorageMetadata):
        if len(places) != 1:
            raise CheckpointError(f"{path}: stores {name} {len(places)} times, expected once")
        (file, offset, length) = next(iter(places.values()))
        return read_object(file, offset, length)
    dtype, shape = entry.properties.dtype, tuple(entry.size)
    pieces: list[Piece] = []
    for chunk in entry.chunks:
        start = tuple(chunk.offsets)
        if start not in places:
            raise CheckpointError(f"{path}: lacks the block of {name} at {list(start)}; copy it again")
        pieces.append(Piece(start, tuple(chunk.sizes), dtype, *places[start]))
    covered = sum(math.prod(piece.shape) for piece in pieces)
    outside = [p for p in pieces if any(a + n > m for a, n, m in zip(p.start, p.shape, shape, strict=False))]
    if covered != math.prod(shape) or outside:
        raise CheckpointError(f"{path}: blocks of {name} do not cover its shape {list(shape)}; copy it again")
    return Pieced(shape, dtype, tuple(pieces))


def _places(path: Path, name: str, entries: Sequence[tuple[Any, Any]]) -> Places:
    found: Places = {}
    for index, info in entries:
        file = path / info.relative_path
        if Path(info.relative_path).name != info.relative_path or not file.is_file():
            raise CheckpointError(f"{path}: names the file {info.relative_path!r}, expected one beside the metadata")
        if info.transform_descriptors or info.offset < 0 or info.offset + info.length > file.stat().st_size:
            raise CheckpointError(f"{file}: ends before {name}, or packs it; copy it again")
        found[tuple(index.offset or ())] = (file, info.offset, info.length)
    return found
