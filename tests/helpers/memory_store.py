"""A store of objects in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fsspec
import pytest

from ckptgrow.addresses import remote_files


def emptied_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The store, empty before and after, and every file large enough to be read by ranges."""
    monkeypatch.setattr(remote_files, "WHOLE", 0)
    system: Any = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()
