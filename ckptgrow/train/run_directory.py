"""The directory of a run: where its log and its checkpoints lie, and what is read of them without a tensor."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ckptgrow.errors import CheckpointError
from ckptgrow.storage.files.json_files import read_json, write_json

CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"  # a second name of the newest checkpoint
METRICS = "metrics.csv"
DESCRIPTION = "last.json"  # of the last checkpoint


@dataclass(frozen=True, kw_only=True)
class LastSaved:
    """What a run's last checkpoint says of itself: parameters in all and without embeddings, its step, the sha256 of
    its data ("" where nothing says it), and the growths of its model.
    """

    parameters: int
    without_embeddings: int
    step: int
    data: str
    history: Sequence[Mapping[str, Any]]


def describe(directory: Path, saved: LastSaved) -> None:
    """Describes a run's last checkpoint, which has just been written; a disk that is full may lack it."""
    with suppress(OSError):
        write_json(directory / DESCRIPTION, {**asdict(saved), "of": _signs(directory / CHECKPOINTS / LAST)})


def described(directory: Path) -> LastSaved | None:
    """The description of a run's last checkpoint; None where there is none, or it is another file's."""
    last, path = directory / CHECKPOINTS / LAST, directory / DESCRIPTION
    if not path.is_file() or not last.is_file():
        return None
    try:
        tree: dict[str, Any] = {**read_json(path)}
    except CheckpointError:  # cut short
        return None
    return LastSaved(**tree) if tree.pop("of", None) == _signs(last) else None


def _signs(file: Path) -> list[int]:
    """By which a file is told from the one that took its place: bytes, and nanoseconds since 1970."""
    found = file.stat()
    return [found.st_size, found.st_mtime_ns]


def metrics_rows(directory: Path) -> list[dict[str, str]]:
    """The whole rows of a run's log; none where it has not begun."""
    path = directory / METRICS
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if (row["step"] or "").isdigit() and row["val_bits"] is not None]
