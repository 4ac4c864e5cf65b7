"""Documents out of text, JSON lines, parquet and TFRecord files, also compressed, a piece of a file at a time."""

from __future__ import annotations

import glob
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from ckptgrow.errors import DataError, MissingDependencyError

Documents = Literal["lines", "files"]
PIECE_BYTES = 64 * 2**20  # of an uncompressed file: what one worker takes at a time
COMPRESSIONS = (".gz", ".zst")
LINE_SUFFIXES = (".txt", ".text", ".md", ".py", ".jsonl", ".ndjson", ".json")


@dataclass(frozen=True)
class Piece:
    """Part of an input file: bytes [start, stop) cut at line ends, or all of it where `stop` is None."""

    path: Path
    start: int = 0
    stop: int | None = None


def expand(inputs: Sequence[str]) -> list[Path]:
    """Files out of files, directories (all files below, hidden ones left out) and globs, each once, sorted.

    Raises DataError for an input that is nothing.
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


def pieces(paths: Sequence[Path], documents: Documents) -> list[Piece]:
    """The work, in order: large uncompressed files of lines are cut."""
    work: list[Piece] = []
    for path in paths:
        size = path.stat().st_size
        if kind_of(path) in ("text", "jsonl") and path.suffix not in COMPRESSIONS and documents == "lines":
            work += [Piece(path, start, min(start + PIECE_BYTES, size)) for start in range(0, size, PIECE_BYTES)]
        else:
            work.append(Piece(path))
    return work


def kind_of(path: Path) -> Literal["text", "jsonl", "parquet", "tfrecord"]:
    """What a file holds, by its name."""
    name = path.name.lower()
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    if name.endswith((".jsonl", ".ndjson", ".json")):
        return "jsonl"
    if name.endswith(".parquet"):
        return "parquet"
    return "tfrecord" if "tfrecord" in name else "text"


def documents_in(piece: Piece, field: str, documents: Documents) -> Iterator[str]:
    """The documents of a piece; empty ones are left out.

    Raises DataError naming the line for malformed JSON, a missing field, or text that is not UTF-8.
    """
    kind = kind_of(piece.path)
    if kind == "parquet":
        yield from _from_parquet(piece.path, field)
    elif kind == "tfrecord":
        yield from _from_tfrecord(piece.path, field)
    elif kind == "text" and documents == "files":
        with _opened(piece.path) as file:
            yield from filter(None, [_decoded(file.read(), f"{piece.path}").strip()])
    else:
        for where, line in _lines(piece):
            text = _text_of(line, field, where) if kind == "jsonl" else line
            if text.strip():
                yield text.rstrip("\r\n")


def _lines(piece: Piece) -> Iterator[tuple[str, str]]:
    """Lines that begin inside the piece, with their place for messages."""
    with _opened(piece.path) as file:
        if piece.start:
            file.seek(piece.start - 1)
            file.readline()  # the line that began before belongs to the piece before
        position = file.tell()
        for number, line in enumerate(file, start=1):
            if piece.stop is not None and position >= piece.stop:
                return
            position += len(line)
            where = f"{piece.path} line {number}" if not piece.start else f"{piece.path} at byte {position - len(line)}"
            yield where, _decoded(line, where)


def _opened(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix == ".zst":
        try:
            import zstandard
        except ImportError as error:
            raise MissingDependencyError(f"{path}: .zst needs `pip install 'ckptgrow[train]'`") from error
        return io.BufferedReader(cast(Any, zstandard.ZstdDecompressor().stream_reader(path.open("rb"))))
    return path.open("rb")


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: is not UTF-8 (byte {error.start}), expected UTF-8 text") from error


def _text_of(line: str, field: str, where: str) -> str:
    if not line.strip():
        return ""
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: is no JSON ({error}), expected an object a line") from error
    if not isinstance(value, dict) or not isinstance(value.get(field), str):
        raise DataError(f"{where}: has no text in field {field!r}; name the right one with --field")
    return cast(str, value[field])


def _from_parquet(path: Path, field: str) -> Iterator[str]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError(f"{path}: parquet needs `pip install 'ckptgrow[train]'`") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                names = ", ".join(file.schema_arrow.names)
                raise DataError(f"{path}: has no column {field!r}, only {names}; name the right one with --field")
            for batch in file.iter_batches(batch_size=1024, columns=[field]):
                yield from (text for text in batch.column(0).to_pylist() if text and text.strip())
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: is no whole parquet file ({error})") from error


def _from_tfrecord(path: Path, field: str) -> Iterator[str]:
    try:
        from tfrecord import tfrecord_loader
    except ImportError as error:
        raise MissingDependencyError(f"{path}: TFRecord needs `pip install 'ckptgrow[train]'`") from error
    compression = "gzip" if path.suffix == ".gz" else None
    try:
        for record in tfrecord_loader(str(path), None, {field: "byte"}, compression_type=compression):
            yield _decoded(bytes(cast(Any, record)[field]), str(path))
    except (RuntimeError, KeyError, ValueError) as error:
        raise DataError(f"{path}: is no whole TFRecord with {field!r} ({error})") from error
