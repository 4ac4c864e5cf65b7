"""How many threads a process may keep busy."""

from __future__ import annotations

import os

MOST = 16  # threads: beyond it each has too little of a disk, and all of their pieces are in memory
SHARED_BY = "LOCAL_WORLD_SIZE"  # torchrun's: the processes of this machine that work together


def usable_cores() -> int:
    """The cores that this process may run on, as far as they are its own: processes of torchrun share a machine's."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    shared_by = os.environ.get(SHARED_BY, "")
    return max(1, cores // (int(shared_by) if shared_by.isdecimal() and int(shared_by) else 1))


def threads_of_files() -> int:
    """Threads that read, compute and write: one more than cores, for at any moment some wait for a disk."""
    return min(MOST, usable_cores() + 1)
