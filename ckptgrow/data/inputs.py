"""Finds the input files, tells their kinds by their names, and cuts large ones into pieces."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ckptgrow.choices import Documents
from ckptgrow.data.compression import COMPRESSIONS, is_compressed
from ckptgrow.errors import DataError

PIECE_BYTES = 64 * 2**20  # of an uncompressed file: what one worker takes at a time
Kind = Literal["text", "jsonl", "parquet", "tfrecord"]


@dataclass(frozen=True)
class InputPiece:
    """Part of an input file: bytes [start, stop) cut at line ends, or all of it where `stop` is None."""

    path: Path
    start: int = 0
    stop: int | None = None


def expand(inputs: Sequence[str]) -> list[Path]:
    """All files that the inputs name, sorted, each once: files, directories (all visible files below), or patterns.

    Raises DataError for an input that names nothing.
    """
    found: set[Path] = set()
    for one in inputs:
        path = Path(one)
        if path.is_file():
            found.add(path)
        elif path.is_dir():
            found |= {file for file in path.rglob("*") if file.is_file() and not file.name.startswith(".")}
        else:
            matches = [Path(name) for name in glob.glob(one, recursive=True)]  # noqa: PTH207  a user's own pattern
            if not matches:
                raise DataError(f"{one}: no such file, directory or pattern")
            found |= {file for file in matches if file.is_file()}
    if not found:
        raise DataError(f"{', '.join(inputs)}: holds no files, expected text, JSON lines, parquet or TFRecord")
    return sorted(found)


def pieces(paths: Sequence[Path], documents: Documents) -> list[InputPiece]:
    """All files in order; large uncompressed files of lines are cut into several pieces."""
    work: list[InputPiece] = []
    for path in paths:
        size = path.stat().st_size
        if kind_of(path) in ("text", "jsonl") and not is_compressed(path) and documents == "lines":
            work += [InputPiece(path, start, min(start + PIECE_BYTES, size)) for start in range(0, size, PIECE_BYTES)]
        else:
            work.append(InputPiece(path))
    return work


def kind_of(path: Path) -> Kind:
    """What a file holds, as its name says."""
    name = path.name.lower()
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    if name.endswith((".jsonl", ".ndjson", ".json")):
        return "jsonl"
    if name.endswith(".parquet"):
        return "parquet"
    return "tfrecord" if "tfrecord" in name else "text"
