"""The processes that share one growth under torchrun, or this process alone."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from ckptgrow.errors import RequestError

LONGEST_WAIT = timedelta(days=1)  # while the first process hashes what others have read
Picklable = TypeVar("Picklable")
_is_alone = ContextVar("is_alone", default=False)


@dataclass(frozen=True)
class Processes:
    """How many processes work together, and which of them this is."""

    rank: int = 0
    count: int = 1

    def agree_on(self, path: Path) -> Path:
        """The path of the first process, in all processes."""
        if self.count == 1:
            return path
        import torch.distributed as dist

        box = [str(path)]
        with _told_of_failures():
            dist.broadcast_object_list(box, src=0)
        return Path(box[0])

    def gather(self, value: Picklable) -> list[Picklable]:
        """The values of all processes, who must all call this, in the order of their ranks."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        found = [value] * self.count
        with _told_of_failures():
            dist.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Waits until all processes have called it."""
        if self.count > 1:
            import torch.distributed as dist

            with _told_of_failures():
                dist.barrier()

    def in_step(self) -> AbstractContextManager[None]:
        """Where a library talks to the other processes: raises RequestError there when one of them has gone."""
        return nullcontext() if self.count == 1 else _told_of_failures()


@contextmanager
def _told_of_failures() -> Generator[None]:
    try:
        yield
    except RuntimeError as error:  # what gloo says of a process that has gone
        raise RequestError("another process has failed, expected all of them here; see its message") from error


def processes() -> Processes:
    """The processes that torchrun started, joined through gloo; else this process alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or _is_alone.get() or not {"MASTER_ADDR", "RANK"} <= os.environ.keys():
        return Processes()
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=LONGEST_WAIT)
    return Processes(dist.get_rank(), dist.get_world_size())


@contextmanager
def alone() -> Generator[None]:
    """Inside, this process grows by itself, though torchrun started others beside it."""
    token = _is_alone.set(True)
    try:
        yield
    finally:
        _is_alone.reset(token)
