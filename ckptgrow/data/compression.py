"""Reads files as bytes, decompressed by their names (.gz, .zst); files that are not whole are refused.

A file that is cut exactly between two members of a `.gz`, or two frames of a `.zst`, is whole and not refused.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import IO, Protocol, cast

from ckptgrow.errors import DataError, needs, reason_of

COMPRESSIONS = (".gz", ".zst")
READ_BYTES = 2**14  # of the compressed file at once: a block of one repeated byte grows 40,000 times
BUFFER_BYTES = 2**17
GZIP_WINDOW = 16 + zlib.MAX_WBITS  # zlib's way to say: gzip's header, checksum and length


class _Member(Protocol):
    """The decompressor of one gzip member or zstd frame."""

    def decompress(self, data: bytes, /) -> bytes:
        """Decompresses some bytes; raises the library's own error where they are damaged."""
        ...

    @property
    def eof(self) -> bool:
        """Whether the end, with its checksum, was reached."""
        ...

    @property
    def unused_data(self) -> bytes:
        """The bytes behind the end, which were not used."""
        ...


def is_compressed(path: Path) -> bool:
    """Whether a file's name says that it is compressed."""
    return path.suffix.lower() in COMPRESSIONS


def opened(path: Path) -> IO[bytes]:
    """The file's content, decompressed while it is read.

    Raises DataError, which names the file, where it cannot be opened; reading raises it where the file is damaged or
    cut short.
    """
    zstandard = _zstandard(path) if path.suffix.lower() == ".zst" else None
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}), expected a data file") from error
    match path.suffix.lower():
        case ".gz":
            blocks = _members(path, file, lambda: cast(_Member, zlib.decompressobj(GZIP_WINDOW)), (zlib.error,), b"\0")
        case ".zst" if zstandard is not None:
            whole = zstandard.ZstdDecompressor()
            blocks = _members(path, file, lambda: cast(_Member, whole.decompressobj()), (zstandard.ZstdError,), b"")
        case _:
            return file
    return cast(IO[bytes], io.BufferedReader(_Blocks(file, blocks), BUFFER_BYTES))


def _zstandard(path: Path) -> ModuleType:
    with needs(f"{path}: .zst", "train"):
        import zstandard
    return zstandard


def _members(
    path: Path, file: IO[bytes], begin: Callable[[], _Member], damages: tuple[type[Exception], ...], padding: bytes
) -> Iterator[bytes]:
    """The content of all members, one after the other.

    `padding` may follow a member (in gzip zeros, to fill a tape).
    """
    member: _Member | None = None
    num_members = 0
    while data := file.read(READ_BYTES):
        while data:
            if member is None:
                data = data.lstrip(padding) if num_members and padding else data
                if not data:
                    break
                member, num_members = begin(), num_members + 1
            try:
                content = member.decompress(data)
            except damages as error:
                kind = path.suffix.lower()
                raise DataError(
                    f"{path}: is damaged, or no {kind} file ({reason_of(error)}), expected a whole one; copy it again, "
                    "or correct its name"
                ) from error
            if content:
                yield content
            data = member.unused_data if member.eof else b""
            member = None if member.eof else member
    if member is not None or not num_members:
        raise DataError(f"{path}: is cut short, it ends before its compressed data do; copy it again")


class _Blocks(io.RawIOBase):
    """A stream that reads from an iterator of bytes."""

    def __init__(self, file: IO[bytes], blocks: Iterator[bytes]) -> None:
        super().__init__()
        self._file, self._blocks, self._rest = file, blocks, memoryview(b"")

    def readable(self) -> bool:
        """Always true, as `io` asks of a stream that can be read."""
        return True

    def readinto(self, buffer: object, /) -> int:
        """Reads the next bytes into a buffer, as many as there are and fit; returns their number, 0 at the end."""
        if not self._rest:
            self._rest = memoryview(next(self._blocks, b""))
        target = memoryview(cast(bytearray, buffer)).cast("B")
        size = min(len(target), len(self._rest))
        target[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def close(self) -> None:
        """Closes the compressed file too."""
        self._file.close()
        super().close()
