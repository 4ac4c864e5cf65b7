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

from ckptgrow.checkpoints import archive, archive_writing
from ckptgrow.checkpoints.checkpoint import Checkpoint
from ckptgrow.checkpoints.lightning import LightningFormat, from_tree
from ckptgrow.checkpoints.processes import processes
from ckptgrow.checkpoints.progress import Advance
from ckptgrow.checkpoints.safetensor_files import write_text
from ckptgrow.checkpoints.tensors import LazyTensor
from ckptgrow.errors import CheckpointError, listing

METADATA, META, CONFIG = ".metadata", "meta.pt", "config.json"
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
        from ckptgrow.checkpoints import dcp_reading  # torch's part of it takes a second to import

        tree = dcp_reading.read(path, METADATA)
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
        from ckptgrow.checkpoints import dcp_writing

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
