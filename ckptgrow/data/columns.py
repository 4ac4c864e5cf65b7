"""Reads documents from files of records: a column of parquet, or a feature of TFRecord."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from ckptgrow.data.compression import opened
from ckptgrow.data.documents import NULL_LEFT_OUT, Document, DocumentPlace, Remarks, decoded, document
from ckptgrow.errors import DataError, listing, needs

ROWS_AT_ONCE = 1024
LENGTH = struct.Struct("<Q")  # bytes of a TFRecord, before it; a checksum of 4 bytes follows each of the two
CHECKSUM_BYTES = 4


def from_parquet(path: Path, fields: Sequence[str], remarks: Remarks) -> Iterator[Document]:
    """The documents in a column, the first of `fields` that the file has; nulls are left out and added to `remarks`.

    Raises DataError, which names the row, for anything else than text.
    """
    with needs(f"{path}: parquet", "train"):
        import pyarrow
        import pyarrow.parquet
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            field = next((one for one in fields if one in names), None)
            if field is None:
                raise DataError(
                    f"{path}: has no column {' or '.join(map(repr, fields))}, only {listing(names)}; name the right "
                    "one with ⟦field⟧"
                )
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=[field]):
                for value in batch.column(0):
                    number += 1
                    found = _row(value, field, DocumentPlace(path, "row", number), remarks)
                    if found:
                        yield found
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: is not a whole parquet file ({_first_line(error)}); copy it again") from error


def _row(value: Any, field: str, place: DocumentPlace, remarks: Remarks) -> Document | None:
    try:
        text = value.as_py()
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: is not UTF-8 (byte {error.start}), expected UTF-8 text") from error
    if text is None:
        remarks.add(NULL_LEFT_OUT, place)
        return None
    if not isinstance(text, str):
        raise DataError(f"{place}: has {type(text).__name__} in column {field!r}, expected text; name it with ⟦field⟧")
    return document(text, place)


def from_tfrecord(path: Path, fields: Sequence[str]) -> Iterator[Document]:
    """The documents in a feature of bytes, the first of `fields` that an example has.

    Raises DataError, which names the record, where it is damaged, cut short, or not an example with one such text.
    """
    with needs(f"{path}: TFRecord", "train"):
        from google.protobuf.message import DecodeError
        from tfrecord import example_pb2
    messages: Any = example_pb2
    with opened(path) as file:
        for number, record in enumerate(_records(file, path), start=1):
            place = DocumentPlace(path, "record", number)
            example = messages.Example()
            try:
                example.ParseFromString(record)
            except DecodeError as error:
                raise DataError(f"{place}: is not an example, expected a TFRecord of examples") from error
            features = example.features.feature
            field = next((one for one in fields if one in features), None)
            if field is None:
                raise DataError(
                    f"{place}: has no feature {' or '.join(map(repr, fields))}, only {listing(features)}; name the "
                    "right one with ⟦field⟧"
                )
            values = features[field].bytes_list.value
            if len(values) != 1:
                raise DataError(f"{place}: has {len(values)} texts in feature {field!r}, expected one")
            found = document(decoded(values[0], place), place)
            if found:
                yield found


def _records(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """Every record of a TFRecord file, which holds length, checksum, content, checksum; checksums are compared."""
    from tfrecord.writer import TFRecordWriter

    checksum: Any = TFRecordWriter.masked_crc
    number = 0
    while head := file.read(LENGTH.size + CHECKSUM_BYTES):
        number += 1
        length, told = head[: LENGTH.size], head[LENGTH.size :]
        if len(head) < LENGTH.size + CHECKSUM_BYTES or checksum(length) != told:
            raise DataError(f"{path} record {number}: is cut short or no TFRecord, expected whole ones; copy it again")
        (size,) = LENGTH.unpack(length)
        content = file.read(size)
        if len(content) < size or checksum(content) != file.read(CHECKSUM_BYTES):
            raise DataError(f"{path} record {number}: is cut short or damaged, expected whole ones; copy it again")
        yield content


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
