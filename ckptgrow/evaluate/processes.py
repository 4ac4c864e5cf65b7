"""The processes that share one evaluation: one alone, or several under `torchrun` or `accelerate launch`."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from ckptgrow.errors import RequestError

DEVICES = "auto, cpu, cuda or cuda:N"


@dataclass(frozen=True)
class EvalProcesses:
    """Which process this is, of how many, and the device that it computes on."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the process that shows the results."""
        return self.rank == 0

    def share(self, length: int) -> range:
        """The indices of the items, out of `length`, that this process evaluates."""
        return range(self.rank, length, self.world_size)

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes by rank, in every process."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        distributed.all_gather_object(values, value)
        return values


@contextmanager
def launched(device: str) -> Generator[EvalProcesses]:
    """Joins the processes that a launcher started (RANK, WORLD_SIZE, LOCAL_RANK) while the block runs.

    Raises RequestError for a device that this machine does not have.
    """
    world_size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world_size == 1:
        yield EvalProcesses(0, 1, chosen)
        return
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield EvalProcesses(rank, world_size, chosen)
    finally:
        distributed.destroy_process_group()


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RequestError(f"⟦device {name}⟧: expected {DEVICES}") from error
    if device.type not in ("cpu", "cuda"):
        raise RequestError(f"⟦device {name}⟧: expected {DEVICES}")
    if device.type == "cpu":
        return device
    index = device.index if ":" in name else local_rank
    if index >= torch.cuda.device_count():
        raise RequestError(
            f"⟦device {name}⟧: expected CUDA device {index}, found {torch.cuda.device_count()} of them; "
            "use ⟦device cpu⟧, or launch fewer processes"
        )
    return torch.device("cuda", index)
