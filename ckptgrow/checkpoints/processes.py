"""The processes that share one growth under torchrun, or the one that there is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist


@dataclass(frozen=True)
class Processes:
    """How many processes work together, and which of them this is."""

    rank: int = 0
    count: int = 1

    def agree_on(self, path: Path) -> Path:
        """The first process's path, in all of them."""
        if self.count == 1:
            return path
        box = [str(path)]
        dist.broadcast_object_list(box, src=0)
        return Path(box[0])

    def wait(self) -> None:
        """Until all of them are here."""
        if self.count > 1:
            dist.barrier()


def processes() -> Processes:
    """What torchrun started (joined through gloo), else this process alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or "MASTER_ADDR" not in os.environ:
        return Processes()
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    return Processes(dist.get_rank(), dist.get_world_size())
