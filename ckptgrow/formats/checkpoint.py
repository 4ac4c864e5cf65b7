"""What every format is read into: a whole training state by name, its tensors lazy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from ckptgrow.formats.carried_files import Carried
from ckptgrow.progress import Advance
from ckptgrow.storage.fingerprint import Fingerprint
from ckptgrow.storage.tensors import LazyTensor


@dataclass(frozen=True)
class Checkpoint:
    """A training state as a file holds it.

    `optimizers` and `schedulers` are still as torch wrote them (parameters by number): who is who is known only after
    the tensors are claimed. `rest` is what the format carries besides, `carried` the files beside it; `layout` is the
    format's own knowledge of where the parts lay, for a writer of the same kind. `order` says from
    where the model's own order of parameters is known: the file, or only the module (safetensors sort by name).
    `scaler` is the state of fp16's loss scaling. `left_behind` names what lies in the directory and is not part of the
    state. `source` is the fingerprint of what it was grown from, whose placeholder stands in `growth` until all of that
    has been read.
    """

    path: Path
    kind: str
    tensors: Mapping[str, LazyTensor]
    config: Mapping[str, Any] | None
    original_arguments: Mapping[str, Any] | None = None
    optimizers: tuple[Mapping[str, Any], ...] = ()
    schedulers: tuple[Mapping[str, Any], ...] = ()
    global_step: int | None = None
    epoch: float | None = None
    precision: str | None = None
    growth: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rest: Mapping[str, Any] = field(default_factory=dict[str, Any])
    carried: Carried = field(default_factory=Carried)
    layout: object = None
    data_position: Any = None
    order: Literal["file", "module"] = "file"
    scaler: Mapping[str, Any] | None = None
    left_behind: tuple[str, ...] = ()
    source: Fingerprint | None = None

    @property
    def history(self) -> list[Mapping[str, Any]]:
        """The growths that this checkpoint went through, oldest first."""
        return list(self.growth.get("history", []))


class Format(Protocol):
    """One kind of checkpoint on disk."""

    @property
    def kind(self) -> str:
        """Its name in `inspect` and messages."""
        ...

    def recognises(self, path: Path) -> bool:
        """Whether `path` looks like this kind, by cheap signs."""
        ...

    def read(self, path: Path) -> Checkpoint:
        """The checkpoint at `path`; raises CheckpointError where it is none."""
        ...

    def write(self, checkpoint: Checkpoint, path: Path, advance: Advance) -> None:
        """Writes a whole checkpoint to `path`, flushed to the disk."""
        ...
