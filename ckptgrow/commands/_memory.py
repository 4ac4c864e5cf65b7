"""How a process that makes and drops many large tensors gets its memory."""

from __future__ import annotations

import ctypes
import os

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_LARGEST_INT = 2**31 - 1


def reuse_memory() -> None:
    """Keeps freed memory for the next tensor, in huge pages; must be called before torch is imported.

    By default glibc asks the kernel for new memory for every large tensor, and the kernel clears it page by page, which
    takes a third of a verification's time. Other C libraries stay as they are.

    Source: mallopt(3); torch's THP_MEM_ALLOC_ENABLE.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)
        mallopt(_M_TOP_PAD, 2**28)
