"""Small files of text: reads JSON up to a size, and writes any text through to the disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TypeAlias

from ckptgrow.errors import CheckpointError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
LARGEST_JSON = 32 * 2**20  # bytes; parsed, they may take thirty times as many
LARGEST_LOG = 256 * 2**20  # bytes of a Trainer's state; a log of a million steps is smaller


def read_json(path: Path, largest: int = LARGEST_JSON) -> dict[str, Json]:
    """A JSON object; raises CheckpointError where the file holds none, or more than `largest` bytes."""
    if not path.is_file() or path.stat().st_size > largest:
        raise CheckpointError(f"{path}: is not a plain file of at most {largest} bytes, expected a JSON object")
    try:
        value: Json = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: is not JSON ({type(error).__name__}), expected an object; copy it again"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: is a {type(value).__name__}, expected a JSON object")
    return value


def write_json(path: Path, value: object, *, sort_keys: bool = False) -> None:
    """Writes a small file of JSON and flushes it to the disk."""
    write_text(path, json.dumps(value, indent=2, sort_keys=sort_keys) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a small file and flushes it to the disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
