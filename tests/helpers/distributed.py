"""torch's distributed checkpoints, as torch itself reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a distributed checkpoint, as torch itself reads them."""
    merged = path.parent / f"{path.name}.merged.pt"
    dcp_to_torch_save(path, merged)
    tree = torch.load(merged, weights_only=True)
    merged.unlink()
    return {str(keys): value for keys, value in flat(tree)}


def flat(tree: Any, keys: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], torch.Tensor]]:
    if isinstance(tree, torch.Tensor):
        return [(keys, tree)]
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [one for key, value in children for one in flat(value, (*keys, key))]
