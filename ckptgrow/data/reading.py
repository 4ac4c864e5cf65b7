"""Reads documents from text and JSON lines, compressed or not, one piece of a file at a time."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Sequence
from typing import Any, cast

from ckptgrow.data.columns import from_parquet, from_tfrecord
from ckptgrow.data.compression import opened
from ckptgrow.data.documents import (
    MARK_LEFT_OUT,
    NULL_LEFT_OUT,
    Document,
    DocumentPlace,
    Remarks,
    decoded,
    document,
)
from ckptgrow.data.inputs import Documents, InputPiece, kind_of
from ckptgrow.errors import DataError, listing

JSON_NAMES: dict[type, str] = {
    dict: "an object",
    list: "a list",
    int: "a number",
    float: "a number",
    bool: "true or false",
}


def documents_in(
    piece: InputPiece, fields: Sequence[str], documents: Documents, remarks: Remarks
) -> Iterator[Document]:
    """The documents in a piece of a file; empty ones and nulls are left out, and nulls are added to `remarks`.

    `fields`: names under which records may hold their text; the first that a record has counts. Raises DataError, which
    names the line, for malformed JSON, a missing field, or text that is not UTF-8.
    """
    match kind_of(piece.path):
        case "parquet":
            yield from from_parquet(piece.path, fields, remarks)
        case "tfrecord":
            yield from from_tfrecord(piece.path, fields)
        case "text" if documents == "files":
            yield from filter(None, [_whole(piece, remarks)])
        case "text":
            yield from filter(None, (document(decoded(line, place), place) for line, place in _lines(piece, remarks)))
        case "jsonl":
            for line, place in _lines(piece, remarks):
                text = json_text(decoded(line, place), fields, place, remarks)
                if text is not None and (found := document(text, place)):
                    yield found


def json_text(line: str, fields: Sequence[str], place: object, remarks: Remarks) -> str | None:
    """The text in one line of JSON; None for an empty line, and for null, which is added to `remarks`.

    Raises DataError, which names the place, for anything but an object with text under one of `fields`.
    """
    if not line.strip():
        return None
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: is not JSON ({error}), expected an object a line") from error
    if not isinstance(record, dict):
        raise DataError(f"{place}: is {_in_words(record)}, expected an object a line")
    field = next((one for one in fields if one in record), None)
    if field is None:
        raise DataError(
            f"{place}: has no field {' or '.join(map(repr, fields))}, only {listing(cast(dict[str, Any], record))}; "
            "name the right one with ⟦field⟧"
        )
    text = record[field]
    if text is None:
        remarks.add(NULL_LEFT_OUT, place)
        return None
    if not isinstance(text, str):
        raise DataError(f"{place}: has {_in_words(text)} in field {field!r}, expected text; correct it")
    return text


def _in_words(value: object) -> str:
    return "null" if value is None else JSON_NAMES.get(type(value), "text")


def _whole(piece: InputPiece, remarks: Remarks) -> Document | None:
    with opened(piece.path) as file:
        content = file.read()
    if content.startswith(codecs.BOM_UTF8):
        remarks.add(MARK_LEFT_OUT, piece.path)
        content = content.removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = error.start - content.rfind(b"\n", 0, error.start) - 1
        place = DocumentPlace(piece.path, number=line)
        raise DataError(f"{place}: is not UTF-8 (byte {byte}), expected UTF-8 text; convert the file") from error
    return document(text, DocumentPlace(piece.path, ""))


def _lines(piece: InputPiece, remarks: Remarks) -> Iterator[tuple[bytes, DocumentPlace]]:
    """The lines that begin inside the piece, with their places; a byte order mark at the file's start is left out."""
    with opened(piece.path) as file:
        if piece.start:
            file.seek(piece.start - 1)
            file.readline()  # the line that began before belongs to the piece before
        position = before = file.tell() if piece.start else 0
        for number, line in enumerate(file, start=1):
            if piece.stop is not None and position >= piece.stop:
                return
            if position == 0 and line.startswith(codecs.BOM_UTF8):
                remarks.add(MARK_LEFT_OUT, piece.path)
                yield line.removeprefix(codecs.BOM_UTF8), DocumentPlace(piece.path)
            else:
                yield line, DocumentPlace(piece.path, number=number, before=before)
            position += len(line)
