"""The bytes with which torch archives one tensor (`torch.save`): what stands before and behind its data.

torch lays the archive out without data (`skip_data`), and the few numbers that depend on the data are put in when it is
known: its CRC-32, and the archive's number.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, cast

import torch
from typing_extensions import Buffer
from zlib_ng import zlib_ng

from ckptgrow.storage.archives.archive import checksum_places, entries_by_place
from ckptgrow.storage.archives.archive_writing import IDENTITY, Hollows, identity_of
from ckptgrow.storage.tensors import Zeros


@dataclass(frozen=True, kw_only=True)
class TensorArchive:
    """An archive of one tensor with `num_bytes` of data between `head` and `tail`.

    `data_sums`: where in the tail the data's CRC-32 stands; `identity`: where its number, and how long that is; None
    where torch writes none; `identity_sums`: where the CRC-32 of the number stands.
    """

    head: bytes
    num_bytes: int
    tail: bytes
    data_sums: tuple[int, ...]
    identity: tuple[int, int] | None
    identity_sums: tuple[int, ...]

    @property
    def length(self) -> int:
        """The whole archive's bytes."""
        return len(self.head) + self.num_bytes + len(self.tail)

    def is_around(self, head: bytes, tail: bytes) -> bool:
        """Whether these bytes before and behind some data are this archive's, for the CRC-32 and the number that they
        say it has.
        """
        if head != self.head or len(tail) != len(self.tail) or not self.data_sums:
            return False
        place = self.data_sums[0]
        (checksum,) = struct.unpack("<I", tail[place : place + 4])
        start, length = self.identity or (0, 0)
        return tail == self._tail(checksum, tail[start : start + length])

    def tail_with(self, checksum: int) -> bytes:
        """What stands behind data with this CRC-32."""
        return self._tail(checksum, identity_of([checksum], self.identity[1]) if self.identity else b"")

    def _tail(self, checksum: int, number: bytes) -> bytes:
        tail = bytearray(self.tail)
        for place in self.data_sums:
            tail[place : place + 4] = struct.pack("<I", checksum)
        if self.identity is not None:
            start, length = self.identity
            tail[start : start + length] = number
            for place in self.identity_sums:
                tail[place : place + 4] = struct.pack("<I", zlib_ng.crc32(number))
        return bytes(tail)


@lru_cache(maxsize=4096)
def tensor_archive(shape: tuple[int, ...], dtype: torch.dtype) -> TensorArchive:
    """The archive of a tensor of this shape and dtype, contiguous and with a storage of its own."""
    written = _Sparse()
    with torch.serialization.skip_data():
        torch.save(Hollows().hollow(Zeros(shape, dtype)), cast(BinaryIO, written))
    start, num_bytes = written.hole
    behind = start + num_bytes
    file = cast(BinaryIO, written)
    places = checksum_places(file)
    numbers = [(at, info.file_size) for at, info in entries_by_place(file).items() if info.filename.endswith(IDENTITY)]
    identity = next(((at - behind, length) for at, length in numbers), None)

    def in_tail(at: int) -> tuple[int, ...]:
        return tuple(place - behind for place in places.get(at, ()))

    return TensorArchive(
        head=written.between(0, start),
        num_bytes=num_bytes,
        tail=written.between(behind, written.length),
        data_sums=in_tail(start) if num_bytes else (),
        identity=identity if num_bytes else None,
        identity_sums=in_tail(numbers[0][0]) if numbers else (),
    )


class _Sparse(io.RawIOBase):
    """A file in memory whose one hole takes none: what is skipped by seeking reads as zeros."""

    def __init__(self) -> None:
        self._parts = [bytearray()]
        self._position = self._end_of_hole = 0

    @property
    def hole(self) -> tuple[int, int]:
        """Where the hole begins, and how long it is; at the end where nothing was skipped."""
        start = len(self._parts[0])
        return start, max(0, self._end_of_hole - start)

    @property
    def length(self) -> int:
        """All bytes, the hole's included."""
        return sum(map(len, self._parts)) + self.hole[1]

    def between(self, start: int, stop: int) -> bytes:
        """The bytes of one side of the hole."""
        first = len(self._parts[0])
        if start < first or len(self._parts) == 1:
            return bytes(self._parts[0][start:stop])
        return bytes(self._parts[1][start - self._end_of_hole : stop - self._end_of_hole])

    def readable(self) -> bool:
        """Always true, as `io` asks of such a stream."""
        return True

    def seekable(self) -> bool:
        """Always true, as `io` asks of such a stream."""
        return True

    def writable(self) -> bool:
        """Always true, as `io` asks of such a stream."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a position, as `io.IOBase.seek` does."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.length}[whence]
        self._position = base + offset
        return self._position

    def write(self, data: Buffer) -> int:
        """Appends bytes; those at a position behind the end begin the part behind the hole."""
        view = memoryview(data).cast("B")
        if self._position > self.length:
            self._end_of_hole = self._position
            self._parts.append(bytearray())
        self._parts[-1] += view
        self._position += len(view)
        return len(view)

    def readinto(self, buffer: Buffer) -> int:
        """See io.RawIOBase.readinto; stops where the hole begins or ends."""
        view = memoryview(buffer).cast("B")
        start, size = self.hole
        ends = [end for end in (start, start + size, self.length) if end > self._position]
        stop = min([*ends[:1], self._position + len(view)])
        found = self.between(self._position, stop)
        if start <= self._position < start + size:
            found = bytes(stop - self._position)
        view[: len(found)] = found
        self._position += len(found)
        return len(found)
