"""Writing lazy tensors to their places in a file, a few megabytes at a time, by a few threads.

Reading, scaling, checksums and writing all release Python's lock, so that threads keep the cores and the disk busy;
memory is bounded by the chunks that they hold, and the page cache by what is on its way to the disk.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import BinaryIO

from ckptgrow.checkpoints.progress import Advance
from ckptgrow.checkpoints.tensors import LazyTensor, Zeros, bytes_of, chunks, num_bytes
from ckptgrow.errors import CheckpointError

NUM_THREADS = 3
NUM_CHUNKS_BEHIND = 64  # on their way to the disk before the first of them is let go
_NOTHING = memoryview(bytes(2**20))


@dataclass(frozen=True)
class Place:
    """A tensor and where its data begins in a file, in bytes."""

    tensor: LazyTensor
    offset: int


def fill(file: BinaryIO, places: Sequence[Place], advance: Advance) -> list[int]:
    """Writes every tensor's data at its place; `advance` is told the bytes of every piece. Returns their CRC-32.

    Where a tensor is zero nothing is written: the file must read as zeros there, as a hole does.
    Raises CheckpointError where a tensor's rows are not as many bytes as its shape says.
    """
    writer = _Writer(file.fileno(), advance)
    largest_first = sorted(places, key=lambda place: -num_bytes(place.tensor))
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        running = {id(place): threads.submit(writer.write, place) for place in largest_first}
        try:
            for one in wait(running.values(), return_when=FIRST_EXCEPTION).done:
                one.result()  # raises what a thread raised
            return [running[id(place)].result() for place in places]
        except BaseException:
            writer.stopped = True
            for one in running.values():
                one.cancel()
            raise


class _Writer:
    """What the threads share."""

    def __init__(self, descriptor: int, advance: Advance) -> None:
        self._descriptor = descriptor
        self._advance = advance
        self._lock = threading.Lock()
        self._written: deque[tuple[int, int]] = deque()
        self.stopped = False

    def write(self, place: Place) -> int:
        """Writes one tensor and returns its CRC-32."""
        if isinstance(place.tensor, Zeros):
            return self._leave_hole(num_bytes(place.tensor))
        checksum, position = 0, place.offset
        for start, stop in chunks(place.tensor):
            if self.stopped:
                return 0
            data = bytes_of(place.tensor.rows(start, stop))
            checksum = zlib.crc32(data, checksum)
            self._write_at(data, position)
            position += len(data)
            self._tell(len(data))
        if position - place.offset != num_bytes(place.tensor):
            raise CheckpointError(
                f"wrote {position - place.offset} bytes of a tensor, expected {num_bytes(place.tensor)}"
            )
        return checksum

    def _write_at(self, data: memoryview, position: int) -> None:
        written = 0
        while written < len(data):
            written += os.pwrite(self._descriptor, data[written:], position + written)
        if hasattr(os, "posix_fadvise"):
            self._send_to_disk(position, len(data))

    def _send_to_disk(self, position: int, length: int) -> None:
        """Starts a chunk's way to the disk, which the kernel would put off until the flush, and lets go an older one.

        The first advice finds the pages dirty and only begins to write them; the second finds them clean and frees
        them, so that the next chunks go into pages just used instead of new ones, the costlier part of a write.
        """
        os.posix_fadvise(self._descriptor, position, length, os.POSIX_FADV_DONTNEED)
        self._written.append((position, length))
        if len(self._written) > NUM_CHUNKS_BEHIND:
            os.posix_fadvise(self._descriptor, *self._written.popleft(), os.POSIX_FADV_DONTNEED)

    def _leave_hole(self, length: int) -> int:
        checksum, left = 0, length
        while left:
            piece = _NOTHING[:left]
            checksum = zlib.crc32(piece, checksum)
            left -= len(piece)
        self._tell(length)
        return checksum

    def _tell(self, amount: int) -> None:
        with self._lock:
            self._advance(amount)
