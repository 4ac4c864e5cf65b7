"""Files of a checkpoint's directory that no format reads: what goes along as bytes, and what stays behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ckptgrow.addresses.stand_ins import fetched_whole
from ckptgrow.storage.files.json_files import Json, write_json
from ckptgrow.storage.files.yaml_files import write_yaml
from ckptgrow.storage.tree import Tree


@dataclass(frozen=True, kw_only=True)
class Carried:
    """Files by name in their directory. `contents` is what the torch archives of plain values among them hold, by name;
    `unreadable` names other files of a kind that could hold tensors. `changed` is what is written in the place of some,
    `replaced` what is copied from elsewhere, by its name here.
    `left_behind` names what lies in the directory, is not part of the state, and does not go along.
    """

    directory: Path = Path()
    files: tuple[str, ...] = ()
    contents: Mapping[str, Tree] = field(default_factory=dict[str, Tree])
    unreadable: tuple[str, ...] = ()
    changed: Mapping[str, Mapping[str, Json]] = field(default_factory=dict[str, Mapping[str, Json]])
    replaced: Mapping[str, Path] = field(default_factory=dict[str, Path])
    left_behind: tuple[str, ...] = ()

    def path_of(self, name: str) -> Path:
        """From where a file is copied."""
        return self.replaced.get(name, self.directory / name)

    @property
    def num_bytes(self) -> int:
        """The size of all files together, in bytes."""
        copied = (name for name in self.files if name not in self.changed)
        written = sum(len(str(value)) for value in self.changed.values())
        return written + sum(self.path_of(name).stat().st_size for name in copied)

    def without(self, dropped: Collection[str]) -> Carried:
        """The same without some files."""

        def kept(names: Iterable[str]) -> tuple[str, ...]:
            return tuple(name for name in names if name not in dropped)

        contents = {name: self.contents[name] for name in kept(self.contents)}
        return replace(
            self,
            files=kept(self.files),
            contents=contents,
            unreadable=kept(self.unreadable),
            left_behind=kept(self.left_behind),
        )

    def with_folder(self, folder: str, inside: Carried) -> Carried:
        """The same with the files of a folder in the directory, each by its path there."""

        def placed(names: Iterable[str]) -> tuple[str, ...]:
            return tuple(f"{folder}/{name}" for name in names)

        return replace(
            self,
            files=(*self.files, *placed(inside.files)),
            contents={**self.contents, **{f"{folder}/{name}": tree for name, tree in inside.contents.items()}},
            unreadable=(*self.unreadable, *placed(inside.unreadable)),
            left_behind=(*self.left_behind, *placed(inside.left_behind)),
        )

    def copy_to(self, target: Path) -> None:
        """Copies the files and flushes them to the disk."""
        for name, value in self.changed.items():
            (write_json if name.endswith(".json") else write_yaml)(target / name, value)
        for name in (name for name in self.files if name not in self.changed):
            (target / name).parent.mkdir(exist_ok=True)
            shutil.copy2(fetched_whole(self.path_of(name)), target / name)
            descriptor = os.open(target / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
