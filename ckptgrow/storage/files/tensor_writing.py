"""Writes lazy tensors to their places in files, a few megabytes at a time, in a few threads.

Reading, scaling, checksums and writing all release Python's lock, so that threads keep the cores and the disk busy.
Memory is bounded by the chunks that they hold.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from zlib_ng import zlib_ng

from ckptgrow.errors import CheckpointError
from ckptgrow.progress import Advance
from ckptgrow.storage.cores import threads_of_files
from ckptgrow.storage.files.direct_writing import OutputFile, opened
from ckptgrow.storage.one_thread import on_one_thread
from ckptgrow.storage.stacks import Stack
from ckptgrow.storage.tensors import CHUNK_BYTES, LazyTensor, Repeated, Zeros, bytes_of, chunks, num_bytes

MOST_FILES = 64  # open at a time
_NOTHING = memoryview(bytes(2**20))


@dataclass(frozen=True)
class Extent:
    """A tensor and where its data begins in a file, in bytes; `others`: further places of the same data."""

    tensor: LazyTensor
    offset: int
    others: Sequence[int] = ()

    @property
    def num_bytes(self) -> int:
        """The bytes of all places."""
        return num_bytes(self.tensor) * (1 + len(self.others))


Finish = Callable[[BinaryIO, Sequence[int]], None]
"""Told an open file and the CRC-32 of its tensors' data; writes what had to wait for these."""


@dataclass(frozen=True)
class FileLayout:
    """A file at `path` that is whole but for the data of `places`, where it reads as zeros, as a hole does."""

    path: Path
    places: Sequence[Extent]
    finish: Finish = lambda file, checksums: None


def fill(outlines: Sequence[FileLayout], advance: Advance) -> None:
    """Writes the data of all tensors of all files, mends the files and flushes them to the disk; `advance` is told the
    bytes of every piece.

    Files are filled together, so that the disk does not wait between them. Raises CheckpointError where a tensor's
    rows are not as many bytes as its shape says.
    """
    for first in range(0, len(outlines), MOST_FILES):
        _fill_together(outlines[first : first + MOST_FILES], advance)


def _fill_together(outlines: Sequence[FileLayout], advance: Advance) -> None:
    with ExitStack() as closed:
        files = [closed.enter_context(outline.path.open("r+b")) for outline in outlines]
        with opened([(one.path, file) for one, file in zip(outlines, files, strict=True)]) as outputs:
            pairs = zip(outputs, outlines, strict=True)
            checksums = iter(_filled([(file, place) for file, one in pairs for place in one.places], advance))
        for file, outline in zip(files, outlines, strict=True):
            outline.finish(file, [next(checksums) for _ in outline.places])
            file.flush()
            os.fsync(file.fileno())


def _filled(places: Sequence[tuple[OutputFile, Extent]], advance: Advance) -> list[int]:
    """Writes the data of all tensors, and returns the CRC-32 of each."""
    writer = _Writer(advance)
    if sum(place.num_bytes for _, place in places) <= CHUNK_BYTES:  # threads would cost more than they save
        return [writer.write(*one) for one in places]
    largest_first = sorted(places, key=lambda one: -one[1].num_bytes)
    with on_one_thread(), ThreadPoolExecutor(threads_of_files()) as threads:
        running = {id(one): threads.submit(writer.write, *one) for one in largest_first}
        try:
            for one in wait(running.values(), return_when=FIRST_EXCEPTION).done:
                one.result()  # raises what a thread raised
            return [running[id(one)].result() for one in places]
        except BaseException:
            writer.stopped = True
            for one in running.values():
                one.cancel()
            raise


class _Writer:
    """The counter that the writing threads share."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._lock = threading.Lock()
        self.stopped = False

    def write(self, file: OutputFile, place: Extent) -> int:
        """Writes one tensor and returns its CRC-32."""
        tensor, places = place.tensor, (place.offset, *place.others)
        if isinstance(tensor, Zeros):
            return self._leave_hole(num_bytes(tensor), len(places))
        if isinstance(tensor, Repeated):
            return self._write_rows(file, places, tensor.old, tensor.times)
        if isinstance(tensor, Stack) and num_bytes(tensor) > CHUNK_BYTES:
            return self._write_stack(file, places, tensor)
        return self._write_rows(file, places, tensor, 1)

    def _write_stack(self, file: OutputFile, places: Sequence[int], stack: Stack) -> int:
        """Writes what is stacked, one after the other, each by the way that suits it."""
        total, length = 0, num_bytes(stack) // len(stack.stacked)
        for index, tensor in enumerate(stack.stacked):
            first, *others = (place + index * length for place in places)
            total = zlib_ng.crc32_combine(total, self.write(file, Extent(tensor, first, others)), length)
        return total

    def _write_rows(self, file: OutputFile, places: Sequence[int], tensor: LazyTensor, times: int) -> int:
        """Makes a tensor's rows once and writes them `times` times over at every place."""
        checksum, written, length = 0, 0, num_bytes(tensor)
        starts = [place + copy * length for place in places for copy in range(times)]
        run = file.run(starts, length)
        for start, stop in chunks(tensor):
            if self.stopped:
                return 0
            data = bytes_of(tensor.rows(start, stop))
            checksum = zlib_ng.crc32(data, checksum)
            run.write(data)
            written += len(data)
            self._tell(len(starts) * len(data))
        if written != length:
            raise CheckpointError(f"wrote {written} bytes of a tensor, expected {length}")
        run.end()
        total = checksum
        for _ in range(times - 1):
            total = zlib_ng.crc32_combine(total, checksum, length)
        return total

    def _leave_hole(self, length: int, num_places: int) -> int:
        checksum, left = 0, length
        while left:
            piece = _NOTHING[:left]
            checksum = zlib_ng.crc32(piece, checksum)
            left -= len(piece)
        self._tell(length * num_places)
        return checksum

    def _tell(self, amount: int) -> None:
        with self._lock:
            self._advance(amount)
