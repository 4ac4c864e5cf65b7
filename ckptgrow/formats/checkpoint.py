"""The form into which every format is read: a whole training state by name, with lazy tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from ckptgrow.formats.carried_files import Carried
from ckptgrow.formats.checked_parts import Scheduler
from ckptgrow.formats.growth_log import GrowthHistory, GrowthRecord
from ckptgrow.formats.raw_optimizers import RawOptimizer
from ckptgrow.progress import Advance
from ckptgrow.storage.tensors import LazyTensor
from ckptgrow.storage.tree import Tree

Order = Literal["file", "module"]
Config: TypeAlias = Mapping[str, Any]  # a transformers config, its fields as in config.json


class PartsLayout(Protocol):
    """A format's own knowledge of where the parts lay, for a writer of the same kind."""

    @property
    def order(self) -> Order:
        """From where the model's own order of parameters is known: the file, or only the module (safetensors sort by
        name).
        """
        ...


@dataclass(frozen=True)
class RunPosition:
    """Where the run stands: how many steps of the optimizer it took, how many epochs, and its place in the data, as the
    format keeps it.
    """

    global_step: int | None = None
    epoch: float | None = None
    data: Tree = None


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A training state as a file holds it.

    `optimizers` and `schedulers` are still as torch wrote them: who is who is known only after the tensors are claimed.
    `scaler` is the state of fp16's loss scaling. `rest` is what the format carries besides, `carried` the files beside
    it.
    """

    path: Path
    kind: str
    tensors: Mapping[str, LazyTensor]
    config: Config | None
    optimizers: tuple[RawOptimizer, ...] = ()
    schedulers: tuple[Scheduler, ...] = ()
    scaler: Mapping[str, Tree] | None = None
    position: RunPosition = field(default_factory=RunPosition)
    growth: GrowthHistory = field(default_factory=GrowthHistory)
    rest: Mapping[str, Tree] = field(default_factory=dict[str, Tree])
    carried: Carried = field(default_factory=Carried)
    layout: PartsLayout | None = None

    @property
    def order(self) -> Order:
        """From where the model's own order of parameters is known."""
        return "file" if self.layout is None else self.layout.order

    @property
    def precision(self) -> str | None:
        """Lightning's name of the precision, where the state tells it."""
        return "16-mixed" if self.scaler else None

    @property
    def tree(self) -> Tree:
        """Everything in it that may hold tensors, but for the files that are carried."""
        return dict(self.tensors), [one.to_torch() for one in self.optimizers], dict(self.rest)

    @property
    def history(self) -> Sequence[GrowthRecord]:
        """The growths that this checkpoint went through, oldest first."""
        return self.growth.log.get("history", [])


class Format(Protocol):
    """One kind of checkpoint on disk."""

    @property
    def kind(self) -> str:
        """The kind's name, in inspections and messages."""
        ...

    def recognises(self, path: Path) -> bool:
        """Whether `path` looks like this kind, by cheap signs."""
        ...

    def read(self, path: Path) -> Checkpoint:
        """Reads the checkpoint at `path`; raises CheckpointError where it is not one of this kind."""
        ...

    def write(self, checkpoint: Checkpoint, path: Path, advance: Advance) -> None:
        """Writes a whole checkpoint to `path`, flushed to the disk."""
        ...
