"""Work on many tensors in a few threads, each with torch on one thread, the largest tensors first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ckptgrow.storage.cores import usable_cores
from ckptgrow.storage.one_thread import on_one_thread

MOST = 8  # more would hold more blocks in memory
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(function: Callable[[Item], Result], items: Sequence[Item], size: Callable[[Item], int]) -> list[Result]:
    """What `function` makes of each item, in the items' order; `size` says which take longest. Raises what it raises,
    of the first item that it does.
    """
    order = sorted(range(len(items)), key=lambda index: -size(items[index]))
    with on_one_thread(), ThreadPoolExecutor(min(MOST, usable_cores())) as threads:
        waiting = {index: threads.submit(function, items[index]) for index in order}
        try:
            return [waiting[index].result() for index in range(len(items))]
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
