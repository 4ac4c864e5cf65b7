"""Which formats there are, and which one a path holds."""

from __future__ import annotations

from pathlib import Path

from ckptgrow.checkpoints.checkpoint import Checkpoint, Format
from ckptgrow.checkpoints.lightning import LightningFormat
from ckptgrow.errors import CheckpointError

FORMATS: tuple[Format, ...] = (LightningFormat(),)


def format_of(path: Path) -> Format:
    """The format that recognises a path.

    Raises CheckpointError where there is nothing, or nothing known.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or directory, expected a checkpoint")
    for one in FORMATS:
        if one.recognises(path):
            return one
    raise CheckpointError(f"{path}: is no checkpoint of a known kind ({', '.join(one.kind for one in FORMATS)})")


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at a path, whatever its format; its tensors stay on disk until their rows are asked for."""
    return format_of(path).read(path)
