"""Tensors of living objects as lazy ones, and lazy ones as tensors again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ckptgrow.errors import CheckpointError
from ckptgrow.storage.fingerprint import Fingerprint
from ckptgrow.storage.tensors import LazyTensor, chunks, is_lazy
from ckptgrow.storage.tree import Tree, map_leaves

# what FullyShardedDataParallel calls its own: nothing public tells a parameter that it has flattened
FLAT = ("_is_flat_param", "_fsdp_flattened")
PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


@dataclass(frozen=True, eq=False)
class LiveTensor:
    """A tensor that belongs to someone else, on any device: its rows are copies, in the memory of the CPU."""

    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """See LazyTensor."""
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        """See LazyTensor."""
        return self.tensor.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        rows = self.tensor.detach()[start:stop] if self.shape else self.tensor.detach()
        return rows.to("cpu", copy=True).contiguous()


def live(tensor: torch.Tensor, name: str) -> LiveTensor:
    """A tensor as a lazy one; raises CheckpointError for one that is not a plain, whole tensor with numbers in it."""
    kind = type(tensor)
    if kind.__name__ == "DTensor":
        raise CheckpointError(
            f"{name} is a DTensor, one process's part of a sharded tensor, expected whole tensors; save the run with "
            "torch.distributed.checkpoint and grow that"
        )
    if any(getattr(tensor, mark, False) for mark in FLAT):
        raise CheckpointError(
            f"{name} is a part of what FullyShardedDataParallel has flattened, expected whole tensors; save the run, "
            "as its trainer or FullyShardedDataParallel.state_dict_type does, and grow that"
        )
    if kind not in PLAIN or tensor.is_meta or tensor.layout is not torch.strided:
        found = "on the meta device" if tensor.is_meta else f"a {kind.__name__} of layout {tensor.layout}"
        raise CheckpointError(f"{name} is {found}, expected a plain tensor, whole and in memory")
    return LiveTensor(tensor)


def fingerprint_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """The sha256 that a file with these tensors has: by which a growth's record knows what it was grown from."""
    return Fingerprint({name: LiveTensor(one) for name, one in tensors.items()}).value()


def made(tensor: LazyTensor, device: torch.device) -> torch.Tensor:
    """A new tensor on a device with a lazy one's numbers, made a few megabytes at a time."""
    whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    for start, stop in chunks(tensor):
        part = tensor.rows(start, stop)
        (whole[start:stop] if tensor.shape else whole).copy_(part)
    return whole


def made_in(tree: Tree, device: torch.device) -> Tree:
    """The same tree with new tensors on a device in the place of lazy ones."""
    return map_leaves(tree, is_lazy, lambda one: made(one, device))
