"""Files of a checkpoint's directory that go along as bytes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ckptgrow.storage.files.json_files import write_json


@dataclass(frozen=True)
class Carried:
    """Files by name in their directory. `held` is what is in those that are torch archives of plain values, by name;
    `closed` names other files of a kind that could hold tensors. `changed` is what is written in the place of some.
    """

    directory: Path = Path()
    files: tuple[str, ...] = ()
    held: Mapping[str, Any] = field(default_factory=dict[str, Any])
    closed: tuple[str, ...] = ()
    changed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])

    @property
    def num_bytes(self) -> int:
        """How large the files are together."""
        return sum((self.directory / name).stat().st_size for name in self.files)

    def without(self, dropped: Collection[str]) -> Carried:
        """All but some files."""
        files = tuple(name for name in self.files if name not in dropped)
        held = {name: one for name, one in self.held.items() if name in files}
        return replace(self, files=files, held=held, closed=tuple(name for name in self.closed if name in files))

    def copy_to(self, target: Path) -> None:
        """Copies the files and flushes them to the disk."""
        for name, value in self.changed.items():
            write_json(target / name, value)
        for name in (name for name in self.files if name not in self.changed):
            shutil.copy2(self.directory / name, target / name)
            descriptor = os.open(target / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
