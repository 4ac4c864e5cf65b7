"""What a checkpoint of `ckptgrow train` says of the data of its run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.lightning import plain_arguments

DATA = "data"  # its place among the hyper-parameters
DIRECTORY, TOKENIZER, VOCAB_SIZE, SHA256 = "directory", "tokenizer", "vocab_size", "sha256"
SOURCES, WEIGHT = "sources", "weight"  # of a mixture, instead of the one directory


@dataclass(frozen=True)
class RunData:
    """The directory that `ckptgrow data` wrote, and the tokenizer's name or directory; None where nothing tells. A
    mixture has its `sources` instead.
    """

    directory: Path | None = None
    tokenizer: str | None = None
    sources: tuple[Path, ...] = ()

    def validation(self) -> Path | None:
        """The run's own validation tokens, where they are still there."""
        return None if self.directory is None else _existing(self.directory / "val.bin")


def run_data_of(checkpoint: Checkpoint) -> RunData:
    """What the hyper-parameters record; growth carries it along."""
    record: object = plain_arguments(checkpoint.rest.get("hyper_parameters")).get(DATA)
    if not isinstance(record, dict):
        return RunData()
    told = cast(dict[str, Any], record)
    directory, tokenizer = told.get(DIRECTORY), told.get(TOKENIZER)
    return RunData(
        Path(directory) if isinstance(directory, str) else None,
        tokenizer if isinstance(tokenizer, str) else None,
        tuple(Path(str(one[DIRECTORY])) for one in told.get(SOURCES, ())),
    )


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None
