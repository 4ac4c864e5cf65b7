"""Files of a checkpoint's directory that go along as bytes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Carried:
    """Files by name in their directory; `held` is what is in those that are torch archives of plain values, by name.
    `names` says how the files of each part that is not carried are called, `metadata` is the weights' own.
    """

    directory: Path = Path()
    files: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    held: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def num_bytes(self) -> int:
        """How large the files are together."""
        return sum((self.directory / name).stat().st_size for name in self.files)

    def without(self, dropped: Collection[str]) -> Carried:
        """All but some files."""
        files = tuple(name for name in self.files if name not in dropped)
        return replace(self, files=files, held={name: one for name, one in self.held.items() if name in files})

    def copy_to(self, target: Path) -> None:
        """Copies the files and flushes them to the disk."""
        for name in self.files:
            shutil.copy2(self.directory / name, target / name)
            descriptor = os.open(target / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
