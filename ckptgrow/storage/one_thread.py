"""Torch on one thread, where further ones would only wait for each other by spinning."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch


@contextmanager
def on_one_thread() -> Generator[None]:
    """Inside, torch computes on the calling thread alone, and so do threads that begin there."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
