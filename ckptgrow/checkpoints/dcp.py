"""torch's distributed checkpoints: a directory with `.metadata` and `*.distcp`, as FSDP in Lightning, torchtitan and
`torch.distributed.checkpoint.state_dict` write them.

The model lies under `model` (or `state_dict`, or at the top), optimizers under `optimizer`, `optim` or `optimizer_0`
and so on, their parameters by name. Lightning adds `meta.pt`: the rest of its checkpoint. What has none may carry a
`config.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from ckptgrow.checkpoints import archive, archive_writing, dcp_writing
from ckptgrow.checkpoints.checkpoint import Checkpoint
from ckptgrow.checkpoints.dcp_metadata import METADATA, read_metadata
from ckptgrow.checkpoints.dcp_pieces import Piece, Pieced, read_object
from ckptgrow.checkpoints.lightning import LightningFormat, from_tree
from ckptgrow.checkpoints.processes import processes
from ckptgrow.checkpoints.progress import Advance
from ckptgrow.checkpoints.safetensor_files import write_text
from ckptgrow.checkpoints.tensors import LazyTensor
from ckptgrow.errors import CheckpointError, listing

META, CONFIG = "meta.pt", "config.json"
MODEL_KEYS = ("model", "state_dict")
OPTIMIZER_KEYS = ("optimizer", "optim")
PLACES = "distributed_keys"  # under which names the parts lay


@dataclass(frozen=True)
class DistributedFormat:
    """See the module's head."""

    kind: str = "dcp"

    def recognises(self, path: Path) -> bool:
        """A directory with `.metadata`."""
        return path.is_dir() and (path / METADATA).is_file()

    def read(self, path: Path) -> Checkpoint:
        """Reads a directory; raises CheckpointError where it is damaged or holds no model."""
        tree = _tree(path, read_metadata(path))
        model_key = next((key for key in MODEL_KEYS if isinstance(tree.get(key), dict)), None)
        tensors = tree[model_key] if model_key else {k: v for k, v in tree.items() if isinstance(v, LazyTensor)}
        keys = [key for key in tree if key in OPTIMIZER_KEYS or key.startswith("optimizer_")]
        others = {key: value for key, value in tree.items() if key not in (model_key, *keys) and key not in tensors}
        if not tensors or not all(isinstance(value, LazyTensor) for value in tensors.values()):
            raise CheckpointError(f"{path}: holds {listing(tree)}, expected a model's tensors under 'model'")
        meta = archive.read(path / META) if (path / META).is_file() else {}
        rest: dict[str, Any] = {
            **meta,
            "state_dict": tensors,
            "optimizer_states": [_numbered(tree[key], path) for key in keys],
        }
        checkpoint = from_tree(rest, path, self.kind)
        config = checkpoint.config
        if config is None and (path / CONFIG).is_file():
            config = cast(dict[str, Any], json.loads((path / CONFIG).read_text(encoding="utf-8")))
        places = {"model": model_key, "optimizers": keys, "others": others, "has_meta": (path / META).is_file()}
        return replace(checkpoint, config=config, rest={**cast(dict[str, Any], checkpoint.rest), PLACES: places})

    def write(self, checkpoint: Checkpoint, path: Path, advance: Advance) -> None:
        """Writes a directory through `torch.distributed.checkpoint`; all processes of torchrun write their share."""
        together = processes()
        rest = dict(checkpoint.rest or {})
        numbers = range(len(checkpoint.optimizers))
        fresh: dict[str, Any] = {"model": "model", "optimizers": [f"optimizer_{number}" for number in numbers]}
        places: dict[str, Any] = rest.pop(PLACES, {**fresh, "others": {}, "has_meta": True})
        optimizers = dict(zip(places["optimizers"], map(_named, checkpoint.optimizers), strict=False))
        model = {places["model"]: dict(checkpoint.tensors)} if places["model"] else dict(checkpoint.tensors)
        dcp_writing.write({**model, **optimizers, **places["others"]}, path, together, advance)
        if together.rank == 0:
            bare = replace(checkpoint, tensors={}, optimizers=(), rest=rest)
            tree = {
                k: v for k, v in LightningFormat().tree(bare).items() if k not in ("state_dict", "optimizer_states")
            }
            archive_writing.write(tree, path / META, advance, checkpoint.source)
            if not places["has_meta"] and checkpoint.config is not None:
                write_text(path / CONFIG, json.dumps(checkpoint.config, indent=2, sort_keys=True) + "\n")


def _tree(path: Path, metadata: Metadata) -> dict[str, Any]:
    """The nested state, its tensors lazy."""
    flat = {name: _value(path, name, entry, metadata) for name, entry in metadata.state_dict_metadata.items()}
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


def _value(path: Path, name: str, entry: Any, metadata: Metadata) -> Any:
    places = _places(path, name, metadata)
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
    covered = sum(_volume(piece.shape) for piece in pieces)
    outside = [p for p in pieces if any(a + n > m for a, n, m in zip(p.start, p.shape, shape, strict=False))]
    if covered != _volume(shape) or outside:
        raise CheckpointError(f"{path}: blocks of {name} do not cover its shape {list(shape)}; copy it again")
    return Pieced(shape, dtype, tuple(pieces))


def _places(path: Path, name: str, metadata: Metadata) -> dict[tuple[int, ...], tuple[Path, int, int]]:
    found: dict[tuple[int, ...], tuple[Path, int, int]] = {}
    for index, info in _by_name(metadata).get(name, ()):
        file = path / info.relative_path
        if Path(info.relative_path).name != info.relative_path or not file.is_file():
            raise CheckpointError(f"{path}: names the file {info.relative_path!r}, expected one beside the metadata")
        if info.transform_descriptors or info.offset < 0 or info.offset + info.length > file.stat().st_size:
            raise CheckpointError(f"{file}: ends before {name}, or packs it; copy it again")
        found[tuple(index.offset or ())] = (file, info.offset, info.length)
    return found


def _by_name(metadata: Metadata) -> dict[str, list[tuple[Any, Any]]]:
    """Entries of the storage by name, sorted once a metadata."""
    known = vars(metadata).get("_ckptgrow_by_name")
    if known is None:
        known = {}
        for index, info in metadata.storage_data.items():
            known.setdefault(index.fqn, []).append((index, info))
        vars(metadata)["_ckptgrow_by_name"] = known
    return known


def _volume(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _numbered(raw: Any, path: Path) -> dict[str, Any]:
    """An optimizer's state with parameters by number, and their names beside them."""
    if not isinstance(raw, dict) or not isinstance(raw.get("param_groups"), list):
        raise CheckpointError(f"{path}: has an optimizer without param_groups, expected parameters by name in groups")
    names = [name for group in raw["param_groups"] for name in group["params"]]
    number = {name: position for position, name in enumerate(names)}
    groups = [
        {**g, "params": [number[n] for n in g["params"]], "param_names": g["params"]} for g in raw["param_groups"]
    ]
    state = {number[name]: record for name, record in raw.get("state", {}).items() if name in number}
    return {**raw, "state": state, "param_groups": groups}


def _named(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse: parameters by name."""
    names = {n: name for g in raw["param_groups"] for n, name in zip(g["params"], g["param_names"], strict=True)}
    groups = [
        {k: v for k, v in g.items() if k != "param_names"} | {"params": g["param_names"]} for g in raw["param_groups"]
    ]
    return {**raw, "state": {names[n]: record for n, record in raw["state"].items()}, "param_groups": groups}
