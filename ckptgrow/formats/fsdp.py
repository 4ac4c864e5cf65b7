"""What accelerate, and so the Trainer, writes under FSDP with SHARDED_STATE_DICT: a directory whose weights and
optimizers are torch distributed checkpoints in directories of their own, beside the files of any other checkpoint.

Source: accelerate, `utils/fsdp_utils.py` (`save_fsdp_model`, `save_fsdp_optimizer`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from ckptgrow.distributed import processes
from ckptgrow.errors import CheckpointError, at, listing
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.dcp import METADATA
from ckptgrow.formats.raw_optimizers import RawOptimizer, raw_optimizer
from ckptgrow.formats.sidecar_files import (
    Files,
    files_of,
    named_files,
    part_files,
    read_beside,
    write_beside,
    write_growth,
)
from ckptgrow.progress import Advance
from ckptgrow.storage.files.tensor_writing import fill
from ckptgrow.storage.tensors import is_lazy
from ckptgrow.storage.tree import Tree

MODEL, OPTIMIZERS = "pytorch_model_fsdp_0", re.compile(r"optimizer_(\d+)")
MODEL_KEY, OPTIMIZER_KEY = "model", "optimizer"


@dataclass(frozen=True)
class ShardedFormat:
    """Sharded directories of accelerate and the Trainer as a format."""

    kind: str = "fsdp"

    def recognises(self, path: Path) -> bool:
        """Whether `path` holds the directory of a sharded model."""
        return (path / MODEL / METADATA).is_file()

    def read(self, path: Path) -> Checkpoint:
        """Reads a directory; raises CheckpointError where a part is missing or damaged."""
        found = [match for one in path.iterdir() if one.is_dir() and (match := OPTIMIZERS.fullmatch(one.name))]
        optimizers = tuple(match[0] for match in sorted(found, key=lambda match: int(match[1])))
        states = tuple(_optimizer(path / name) for name in optimizers)
        state = _part(path / MODEL, MODEL_KEY)
        tensors = {name: value for name, value in state.items() if is_lazy(value)}
        strangers = state.keys() - tensors.keys()
        if strangers:
            raise CheckpointError(f"{path / MODEL}: {listing(strangers)} are not all tensors, expected a state dict")
        files = Files(optimizers=optimizers, schedulers=part_files(path, "scheduler"))
        beside = read_beside(path, self.kind, {MODEL, *optimizers}, files)
        return replace(beside, tensors=tensors, optimizers=states)

    def write(self, checkpoint: Checkpoint, path: Path, advance: Advance) -> None:
        """Writes a directory; all processes of torchrun write their share of the weights and moments."""
        from ckptgrow.storage.dcp_io import dcp_writing

        together = processes()
        if together.rank == 0:
            path.mkdir()
        together.wait()
        dcp_writing.write({MODEL_KEY: dict(checkpoint.tensors)}, path / MODEL, together, advance)
        states = [one.to_torch() for one in checkpoint.optimizers]
        for state, part in named_files(files_of(checkpoint).optimizers, "optimizer_0", states, path):
            dcp_writing.write({OPTIMIZER_KEY: state}, part, together, advance)
        if checkpoint.growth.source is not None:
            checkpoint.growth.source.share(together)
        if together.rank == 0:
            fill(write_beside(checkpoint, path), advance)
            write_growth(checkpoint, path)


def _optimizer(path: Path) -> RawOptimizer:
    state = _part(path, OPTIMIZER_KEY)
    with at(path):  # where there are no records, nothing of them is written
        return raw_optimizer({"state": {}, **state})


def _part(path: Path, key: str) -> dict[str, Tree]:
    from ckptgrow.storage.dcp_io import dcp_reading  # torch's part of it takes a second to import

    tree = dcp_reading.read(path / METADATA)
    state = tree.get(key)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds {listing(tree)}, expected a state under {key!r}")
    return state
