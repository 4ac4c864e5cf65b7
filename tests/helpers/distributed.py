"""torch's distributed checkpoints, as torch itself reads them."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

OLMO_CORE = "olmo_core.distributed.checkpoint.filesystem"


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a distributed checkpoint, as torch itself reads them."""
    return {str(keys): value for keys, value in flat(tree_of(path))}


def tensors_by_name(path: Path) -> dict[str, torch.Tensor]:
    """The same, by names that do not tell whether a state is flat or nested."""
    return {".".join(map(str, keys)): value for keys, value in flat(tree_of(path))}


def tree_of(path: Path) -> Any:
    """A distributed checkpoint as torch reads it; OLMo-core's class in the metadata is torch's by another name."""
    merged = path.parent / f"{path.name}.merged.pt"
    names = [OLMO_CORE.rsplit(".", count)[0] for count in range(4)]
    modules = {name: types.ModuleType(name) for name in names}
    modules[OLMO_CORE].__dict__["_StorageInfo"] = vars(filesystem)["_StorageInfo"]
    with mock.patch.dict(sys.modules, modules):
        dcp_to_torch_save(path, merged)
    tree = torch.load(merged, weights_only=True)
    merged.unlink()
    return tree


def flat(tree: Any, keys: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], torch.Tensor]]:
    if isinstance(tree, torch.Tensor):
        return [(keys, tree)]
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [one for key, value in children for one in flat(value, (*keys, key))]
