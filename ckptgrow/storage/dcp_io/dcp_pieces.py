"""Tensors and objects inside the `.distcp` files of torch's distributed checkpoints, each a little torch archive."""

from __future__ import annotations

import io
import math
import pickle
import types
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

import torch
from typing_extensions import Buffer

from ckptgrow.errors import CheckpointError
from ckptgrow.storage.archives.archive import DAMAGES, check_sums, entry_sizes
from ckptgrow.storage.archives.tensor_archives import tensor_archive
from ckptgrow.storage.pickles.opaque_pickles import unpickler_of
from ckptgrow.storage.tensors import InMemory, LazyTensor, Stored
from ckptgrow.storage.tree import Tree

LARGEST_OBJECT = 256 * 2**20  # bytes


class Slice(io.RawIOBase):
    """Bytes [offset, offset + length) of a file, as a file of its own."""

    def __init__(self, path: Path, offset: int, length: int) -> None:
        self._file: Any = path.open("rb", buffering=0)
        self._offset, self._length, self._position = offset, length, 0

    def readable(self) -> bool:
        """Always true, as `io` asks of such a stream."""
        return True

    def seekable(self) -> bool:
        """Always true, as `io` asks of such a stream."""
        return True

    def tell(self) -> int:
        """The position in bytes from the slice's start."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a position in the slice, as `io.IOBase.seek` does."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Buffer) -> int:
        """See io.RawIOBase.readinto."""
        view = memoryview(buffer)[: max(0, self._length - self._position)]
        self._file.seek(self._offset + self._position)
        got = self._file.readinto(view)
        self._position += got
        return got

    def close(self) -> None:
        """Closes the file too."""
        self._file.close()
        super().close()


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A block of a tensor: where it begins, its shape, and the place of its archive."""

    start: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    path: Path
    offset: int
    length: int

    @cached_property
    def stored(self) -> Stored:
        """The block's data in the file; raises CheckpointError where the archive holds another tensor."""
        try:
            stored = self._as_torch_saves() or self._unpickled()
        except DAMAGES as error:
            raise CheckpointError(f"{self.path}: damaged at byte {self.offset} ({type(error).__name__})") from error
        end = stored.offset + stored.span * stored.dtype.itemsize
        inside = self.offset <= stored.offset and end <= self.offset + self.length
        if stored.shape != self.shape or stored.dtype != self.dtype or not inside:
            raise CheckpointError(
                f"{self.path}: holds a block of shape {list(stored.shape)} at byte {self.offset}, expected "
                f"{list(self.shape)} by the metadata"
            )
        return stored

    def _as_torch_saves(self) -> Stored | None:
        """Where all but the data is, byte for byte, what torch saves of a contiguous tensor on the CPU, as it nearly
        always is; None where it is not. This takes a tenth of the time of unpickling.
        """
        if math.prod(self.shape) * self.dtype.itemsize > self.length:
            return None
        archive = tensor_archive(self.shape, self.dtype)
        if archive.length != self.length:
            return None
        with Slice(self.path, self.offset, self.length) as file:
            head = file.read(len(archive.head))
            file.seek(len(archive.head) + archive.num_bytes)
            if head is None or not archive.is_around(head, file.read() or b""):
                return None
        offset = self.offset + len(archive.head)
        stride = tuple(math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape)))
        return Stored(path=self.path, offset=offset, shape=self.shape, dtype=self.dtype, stride=stride)

    def _unpickled(self) -> Stored:
        with self._archive() as file:
            entry_sizes(file, f"{self.path}, byte {self.offset}")
            file.seek(0)
            meta = torch.load(file, map_location="meta", weights_only=True)
        start: int = meta.untyped_storage()._checkpoint_offset
        return Stored(
            path=self.path,
            offset=self.offset + start + int(meta.storage_offset()) * meta.dtype.itemsize,
            shape=tuple(meta.shape),
            dtype=meta.dtype,
            stride=tuple(meta.stride()),
        )

    def check_sum(self) -> None:
        """Reads the block; raises CheckpointError where its checksum is not the recorded one."""
        with self._archive() as file:
            check_sums(file, f"{self.path}, byte {self.offset}")

    def _archive(self) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(Slice(self.path, self.offset, self.length)))


@dataclass(frozen=True)
class RowOfBlock:
    """One row of a block, by its number in the block, as a block of the tensor's row."""

    block: Block
    number: int

    @property
    def start(self) -> tuple[int, ...]:
        """See Piece."""
        return self.block.start[1:]

    @property
    def shape(self) -> tuple[int, ...]:
        """See Piece."""
        return self.block.shape[1:]

    @cached_property
    def stored(self) -> Stored:
        """See Piece."""
        return self.block.stored.row(self.number)

    def check_sum(self) -> None:
        """See Piece; all of the block is read."""
        self.block.check_sum()


Block: TypeAlias = "Piece | RowOfBlock"


@dataclass(frozen=True, eq=False)
class Pieced:
    """A tensor in blocks, which cover it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: Sequence[Block]

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        if not self.shape:
            return self.pieces[0].stored.rows(0, 1)
        for piece in self.pieces:
            begin = piece.start[0]
            if begin <= start < stop <= begin + piece.shape[0] and piece.shape[1:] == self.shape[1:]:
                return piece.stored.rows(start - begin, stop - begin)
        result = torch.empty((stop - start, *self.shape[1:]), dtype=self.dtype)
        for piece in self.pieces:
            first, last = max(start, piece.start[0]), min(stop, piece.start[0] + piece.shape[0])
            if first >= last:
                continue
            block = result[first - start : last - start]
            for axis in range(1, len(self.shape)):
                block = block.narrow(axis, piece.start[axis], piece.shape[axis])
            block.copy_(piece.stored.rows(first - piece.start[0], last - piece.start[0]))
        return result

    def row(self, index: int) -> LazyTensor:
        """One row as a tensor."""
        numbers = [(piece, index - piece.start[0]) for piece in self.pieces]
        inside = tuple(RowOfBlock(piece, number) for piece, number in numbers if 0 <= number < piece.shape[0])
        return Pieced(self.shape[1:], self.dtype, inside)


def read_object(path: Path, offset: int, length: int) -> Tree:
    """A value that is not a tensor; raises CheckpointError where it is damaged or names code."""
    if length > LARGEST_OBJECT:
        raise CheckpointError(f"{path}: holds an object of {length} bytes, expected at most {LARGEST_OBJECT}")
    try:
        with Slice(path, offset, length) as file:
            data = io.BytesIO(file.read())
        entry_sizes(data, f"{path}, byte {offset}")
        data.seek(0)
        try:
            return torch.load(data, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:  # classes of others: stand-ins, or refused there
            data.seek(0)
            module = types.SimpleNamespace(__name__=__name__, Unpickler=unpickler_of(InMemory))
            return torch.load(data, map_location="cpu", weights_only=False, pickle_module=module)
    except DAMAGES as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{path}: the object at byte {offset} is damaged or names code ({reason})") from error
