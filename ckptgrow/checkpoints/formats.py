"""Which formats there are, and which one a path holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ckptgrow.checkpoints.archive import DAMAGES
from ckptgrow.checkpoints.checkpoint import Checkpoint, Format
from ckptgrow.checkpoints.dcp import DistributedFormat
from ckptgrow.checkpoints.fsdp import ShardedFormat
from ckptgrow.checkpoints.huggingface import DEFAULT_SHARD_BYTES, HuggingFaceFormat
from ckptgrow.checkpoints.lightning import LightningFormat
from ckptgrow.errors import CheckpointError

FORMATS: tuple[Format, ...] = (DistributedFormat(), ShardedFormat(), HuggingFaceFormat(), LightningFormat())
SHARED = ("dcp", "fsdp")  # kinds that several processes can write together


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


def writer_of(kind: str, max_shard_bytes: int = DEFAULT_SHARD_BYTES) -> Format:
    """The format that writes a kind; `max_shard_bytes` bounds the files of a directory's weights."""
    writers: Mapping[str, Format] = {
        "lightning": LightningFormat(),
        "dcp": DistributedFormat(),
        "fsdp": ShardedFormat(),
    }
    return writers.get(kind, HuggingFaceFormat(max_shard_bytes))


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at a path, whatever its format; its tensors stay on disk until their rows are asked for."""
    found = format_of(path)
    try:
        return found.read(path)
    except DAMAGES as error:  # a file may be malformed in more ways than there are checks
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{path}: malformed, expected {found.kind} ({type(error).__name__}: {reason})") from error
