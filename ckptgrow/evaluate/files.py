"""Reads the texts in a local file with their line numbers: plain lines, JSON lines, or a parquet column."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptgrow.data.compression import opened
from ckptgrow.data.documents import half_pair
from ckptgrow.data.inputs import kind_of
from ckptgrow.errors import DataError, listing
from ckptgrow.evaluate.dependency import require


@dataclass(frozen=True)
class Text:
    """One line or row: its number in the file, from 1 on, and its text, without a line end."""

    line: int
    text: str


def is_plain(path: Path) -> bool:
    """Whether a file's name says that it is plain text."""
    return kind_of(path) == "text"


def read_plain(path: Path) -> list[Text]:
    """Every line of a plain file, including empty ones.

    Raises DataError where it cannot be read, is empty, or is not UTF-8.
    """
    lines = [Text(number, text.removesuffix("\r")) for number, text in _decoded(path)]
    return lines[:-1] if not lines[-1].text else lines


def read_records(path: Path, fields: Sequence[str]) -> tuple[str, list[Text], int]:
    """The first of `fields` that the records have, its texts, and the number of empty lines between records.

    Raises DataError, which names the line, for anything else than an object with text in this field.
    """
    if kind_of(path) == "parquet":
        return _read_parquet(path, fields)
    texts: list[Text] = []
    field, num_empty = None, 0
    lines = _decoded(path)
    for number, line in lines:
        if not line.strip():
            num_empty += number < len(lines)  # what follows the last line's end is not a line
            continue
        record = _object(path, number, line)
        field = field or next((one for one in fields if one in record), None)
        value = record.get(field) if field is not None else None
        if not isinstance(value, str):
            found = f"{field} is {_kind(value)}" if field in record else f"has {listing(record) or 'nothing'}"
            raise DataError(f"{path}: line {number}: {found}, expected the text under {' or '.join(fields)!r}")
        if half := half_pair(value):
            raise DataError(f"{path}: line {number}: holds {half}, half a surrogate pair, expected Unicode text")
        texts.append(Text(number, value))
    if field is None:
        raise DataError(f"{path}: has no records, expected JSON lines with {' or '.join(fields)!r}")
    return field, texts, num_empty


def _object(path: Path, number: int, line: str) -> dict[str, object]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: line {number}: is not JSON ({error}), expected one object a line") from error
    if not isinstance(record, dict):
        raise DataError(f"{path}: line {number}: is a JSON {type(record).__name__}, expected an object")
    return record


def _decoded(path: Path) -> list[tuple[int, str]]:
    with opened(path) as file:
        content = file.read()
    if not content.strip():
        raise DataError(f"{path}: is empty, expected text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: line {line}: byte {content[error.start]:#04x} is not UTF-8 there, expected UTF-8 text; "
            "convert the file first"
        ) from error
    return list(enumerate(text.split("\n"), start=1))


def _read_parquet(path: Path, fields: Sequence[str]) -> tuple[str, list[Text], int]:
    require("pyarrow")
    import pyarrow
    from pyarrow import parquet

    try:
        columns = parquet.read_schema(path).names
        field = next((one for one in fields if one in columns), None)
        if field is None:
            raise DataError(f"{path}: has the columns {listing(columns)}, expected {' or '.join(fields)!r}")
        values = [_as_text(value) for value in parquet.read_table(path, columns=[field]).column(field)]
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as parquet ({str(error).splitlines()[0]})") from error
    for row, value in enumerate(values, start=1):
        if not isinstance(value, str):
            raise DataError(f"{path}: row {row}: {field} is {_kind(value)}, expected text")
    if not values:
        raise DataError(f"{path}: has no rows, expected texts")
    return field, [Text(row, value) for row, value in enumerate(values, start=1)], 0


def _kind(value: object) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def _as_text(value: Any) -> Any:
    """A value of a column; bytes where it is not UTF-8, which parquet does not check."""
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return b""
