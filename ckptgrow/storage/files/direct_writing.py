"""Writes long runs of bytes past the page cache, where a file system allows it.

The cache costs more than all that growth computes: every page is found, filled, later written and freed again.
`O_DIRECT` has the disk take bytes from the program's own memory, and asks that places, lengths and addresses are whole
blocks (open(2)). So bytes are gathered in blocks; the ends of a run, short runs, and what a file system refuses go
through the cache. Room is asked for before (fallocate(2)): ext4 lets one thread at a time write where there is none.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

BLOCK = 4096  # bytes
SHORTEST = 2**20  # bytes: a shorter run is not worth its memory
GATHERED = 2 * 2**20  # bytes that go to the disk at once
MOST_GATHERINGS = 4  # of one tensor: its copies lie at the same distance from a block, or at few
NUM_CHUNKS_BEHIND = 64  # in the cache and on their way to the disk before the first of them is let go
REFUSED = (errno.EINVAL, errno.EOPNOTSUPP)

_FALLOCATE = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)  # not on every system

Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]


class PageCache:
    """Writes through the cache, and holds few pages of it; several files and threads share one."""

    def __init__(self) -> None:
        self._written: deque[tuple[int, int, int]] = deque()

    def write(self, descriptor: int, data: memoryview, position: int) -> None:
        """Writes all of `data` and starts its way to the disk, which the kernel would put off until the flush."""
        written = 0
        while written < len(data):
            written += os.pwrite(descriptor, data[written:], position + written)
        if hasattr(os, "posix_fadvise"):
            self._send_to_disk(descriptor, position, len(data))

    def _send_to_disk(self, descriptor: int, position: int, length: int) -> None:
        """Lets go an older chunk for every new one.

        The first advice finds the pages dirty and only begins to write them; the second finds them clean and frees
        them, so that the next chunks go into pages just used instead of new ones, the costlier part of a write.
        """
        os.posix_fadvise(descriptor, position, length, os.POSIX_FADV_DONTNEED)
        self._written.append((descriptor, position, length))
        if len(self._written) > NUM_CHUNKS_BEHIND:
            os.posix_fadvise(*self._written.popleft(), os.POSIX_FADV_DONTNEED)


class Memories:
    """Memory to gather in, whose address is a whole block's; several threads take and give."""

    def __init__(self) -> None:
        self._spare: deque[mmap.mmap] = deque()

    def take(self) -> mmap.mmap:
        """GATHERED bytes, used before if there are such."""
        try:
            return self._spare.pop()
        except IndexError:
            return mmap.mmap(-1, GATHERED)

    def give(self, memory: mmap.mmap) -> None:
        """For others to take."""
        self._spare.append(memory)


class OutputFile:
    """A file whose runs are written by several threads; `direct` is None where the file system has no such way."""

    def __init__(self, cached: int, direct: int | None, cache: PageCache, memories: Memories) -> None:
        self.cached = cached
        self.direct = direct
        self.cache = cache
        self.memories = memories

    def run(self, positions: Sequence[int], length: int) -> WrittenRun:
        """A run of `length` bytes to be written at each of the positions."""
        if self.direct is None or length < SHORTEST:
            return _Cached(self, positions)
        for position in positions:
            _ask_for_room(self.direct, position, length)
        by_distance = [list(found) for _, found in groupby(sorted(positions, key=_distance), _distance)]
        if len(by_distance) > MOST_GATHERINGS:
            return _Cached(self, positions)
        return _Several([_Gathered(self, found) for found in by_distance])

    def write(self, data: memoryview, position: int) -> None:
        """Writes all of `data` through the cache."""
        self.cache.write(self.cached, data, position)

    def write_blocks(self, blocks: memoryview, position: int) -> None:
        """Writes whole blocks of memory to a whole block of the file, past the cache while that is not refused."""
        written = 0
        while self.direct is not None and written < len(blocks) and written % BLOCK == 0:
            written += self._taken(self.direct, blocks[written:], position + written)
        if written < len(blocks):
            self.write(blocks[written:], position + written)

    def _taken(self, direct: int, blocks: memoryview, position: int) -> int:
        """As many bytes as a direct write took; none, and none is tried again, where it is refused."""
        try:
            return os.pwrite(direct, blocks, position)
        except OSError as error:
            if error.errno not in REFUSED:
                raise
            self.direct = None
            return 0


class WrittenRun(Protocol):
    """Bytes that are written one after the other, at one place or several."""

    def write(self, data: memoryview) -> None:
        """Writes what follows; `data` may be used again afterwards."""

    def end(self) -> None:
        """Writes what was gathered and is no whole block."""


class _Cached:
    def __init__(self, file: OutputFile, positions: Sequence[int]) -> None:
        self._file = file
        self._positions = positions
        self._written = 0

    def write(self, data: memoryview) -> None:
        for position in self._positions:
            self._file.write(data, position + self._written)
        self._written += len(data)

    def end(self) -> None:
        pass


class _Gathered:
    """A run at positions of the same distance from a block."""

    def __init__(self, file: OutputFile, positions: Sequence[int]) -> None:
        self._file = file
        self._positions = positions
        self._head = -positions[0] % BLOCK  # bytes before the first whole block that are still to come
        self._written = 0
        self._filled = 0
        self._memory = file.memories.take()
        self._bytes: Bytes = np.frombuffer(self._memory, np.uint8)

    def write(self, data: memoryview) -> None:
        if self._head:
            head = data[: self._head]
            self._write_through(head)
            self._head -= len(head)
            data = data[len(head) :]
        left: Bytes = np.frombuffer(data, np.uint8)
        while len(left):
            piece = left[: GATHERED - self._filled]
            self._bytes[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            left = left[len(piece) :]
            if self._filled == GATHERED:
                self._write_blocks()

    def end(self) -> None:
        rest = self._filled % BLOCK
        tail = bytes(self._bytes[self._filled - rest : self._filled])
        self._filled -= rest
        self._write_blocks()
        self._write_through(memoryview(tail))
        del self._bytes
        self._file.memories.give(self._memory)

    def _write_through(self, data: memoryview) -> None:
        for position in self._positions:
            self._file.write(data, position + self._written)
        self._written += len(data)

    def _write_blocks(self) -> None:
        with memoryview(self._memory)[: self._filled] as blocks:
            for position in self._positions:
                self._file.write_blocks(blocks, position + self._written)
        self._written += self._filled
        self._filled = 0


class _Several:
    def __init__(self, runs: Sequence[WrittenRun]) -> None:
        self._runs = runs

    def write(self, data: memoryview) -> None:
        for run in self._runs:
            run.write(data)

    def end(self) -> None:
        for run in self._runs:
            run.end()


def _distance(position: int) -> int:
    return position % BLOCK


def _ask_for_room(descriptor: int, position: int, length: int) -> None:
    """Gives a range its place on the disk, where the file system can; `os.posix_fallocate` writes to every block
    where it cannot. Raises OSError where there is no room.
    """
    if _FALLOCATE is not None and _FALLOCATE(descriptor, 0, ctypes.c_int64(position), ctypes.c_int64(length)) != 0:
        number = ctypes.get_errno()
        if number == errno.ENOSPC:
            raise OSError(number, os.strerror(number))


@contextmanager
def opened(files: Sequence[tuple[Path, BinaryIO]]) -> Generator[list[OutputFile]]:
    """The files at these paths, opened for writing, to be written in runs."""
    cache, memories = PageCache(), Memories()
    with ExitStack() as closed:
        found: list[OutputFile] = []
        for path, file in files:
            direct = _opened_directly(path)
            if direct is not None:
                closed.callback(os.close, direct)
            found.append(OutputFile(file.fileno(), direct, cache, memories))
        yield found


def _opened_directly(path: Path) -> int | None:
    flag = getattr(os, "O_DIRECT", None)  # not on every system
    if flag is None:
        return None
    try:
        return os.open(path, os.O_WRONLY | flag)
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        return None
