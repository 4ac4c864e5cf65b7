"""The sha256 of a checkpoint's tensors, computed from their rows while something else reads these.

Each tensor is cut into blocks of rows, and each block has a sha256 of its own, so that threads and processes can hash
what they read, in any order; the tensor's is the sha256 of those of its blocks, and the checkpoint's the sha256 of all
names, dtypes, shapes and tensors' sums. Where the blocks lie depends on the tensor's shape and dtype alone, so who read
what does not change the value (a Merkle tree of two levels: Merkle, A Digital Signature Based on a Conventional
Encryption Function, CRYPTO 1987).
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from typing_extensions import Buffer

from ckptgrow.distributed import Processes
from ckptgrow.storage.cores import threads_of_files
from ckptgrow.storage.tensors import CHUNK_BYTES, LazyTensor, bytes_of, chunks, num_bytes

BLOCK_BYTES = 4 * 2**20
Sums = dict[int, bytes]  # the sha256 of blocks, by their numbers


class _Hash(Protocol):
    def update(self, data: Buffer, /) -> None: ...

    def digest(self) -> bytes: ...


@dataclass
class _Open:
    """A block of which some first rows have been seen; `is_busy` while a thread hashes more of them."""

    hashed: _Hash
    rows_seen: int
    is_busy: bool = False


class Watched:
    """A tensor whose rows are hashed when they are read, each once, and those of a block in order."""

    def __init__(self, tensor: LazyTensor) -> None:
        self._tensor = tensor
        self._num_rows = tensor.shape[0] if tensor.shape else 1
        self._rows_per_block = _rows_per_block(tensor)
        self._open: dict[int, _Open] = {}
        self._lock = threading.Lock()
        self.sums: Sums = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """See LazyTensor."""
        return self._tensor.shape

    @property
    def dtype(self) -> torch.dtype:
        """See LazyTensor."""
        return self._tensor.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        rows = self._tensor.rows(start, stop)
        for block in range(start // self._rows_per_block, -(-stop // self._rows_per_block)):
            if block not in self.sums:
                self._see(block, rows, start, stop)
        return rows

    def missing(self) -> list[int]:
        """The numbers of the blocks whose sums are not known yet."""
        num_blocks = -(-self._num_rows // self._rows_per_block) if num_bytes(self._tensor) else 0
        return [block for block in range(num_blocks) if block not in self.sums]

    def read(self, block: int) -> None:
        """Reads one block, so that its sum is known."""
        first = block * self._rows_per_block
        last = min(first + self._rows_per_block, self._num_rows)
        step = max(1, CHUNK_BYTES * self._num_rows // num_bytes(self._tensor))
        hashed = hashlib.sha256()
        for start in range(first, last, step):
            hashed.update(bytes_of(self._tensor.rows(start, min(start + step, last))))
        self.sums[block] = hashed.digest()

    def digest(self) -> str:
        """The sha256 of the sums of all blocks, in hexadecimal; none may be missing."""
        return hashlib.sha256(b"".join(self.sums[block] for block in sorted(self.sums))).hexdigest()

    def _see(self, block: int, rows: torch.Tensor, start: int, stop: int) -> None:
        """Hashes those of the rows [start, stop) that come next in a block, if no other thread does."""
        first = block * self._rows_per_block
        last = min(first + self._rows_per_block, self._num_rows)
        with self._lock:
            if block not in self._open and start <= first:
                self._open[block] = _Open(hashlib.sha256(), first)
            found = self._open.get(block)
            if found is None or found.is_busy or not start <= found.rows_seen < stop:
                return
            found.is_busy = True
        until = min(stop, last)
        found.hashed.update(bytes_of(rows[found.rows_seen - start : until - start] if self.shape else rows))
        found.rows_seen, found.is_busy = until, False
        if until == last:
            self.sums[block] = found.hashed.digest()
            del self._open[block]


class Fingerprint:
    """One sha256 over names, dtypes, shapes and bytes of all tensors, in the order of their names.

    `placeholder` stands for it in what is written before the tensors have gone by.
    """

    def __init__(self, tensors: Mapping[str, LazyTensor]) -> None:
        watched = {id(tensor): Watched(tensor) for tensor in tensors.values()}
        self._watched = {name: watched[id(tensor)] for name, tensor in tensors.items()}
        self._distinct = list(watched.values())
        self.tensors: Mapping[str, LazyTensor] = self._watched
        self.placeholder = secrets.token_hex(32)

    def value(self) -> str:
        """The sha256, in hexadecimal; what was not read yet is read now, each block once, in a few threads."""
        self._read(list(self._missing()))
        total = hashlib.sha256()
        for name, one in sorted(self._watched.items()):
            total.update(_line(name, one, one.digest()))
        return total.hexdigest()

    def share(self, together: Processes) -> None:
        """Puts together what all processes have hashed, who must all call this, and reads what none of them has, each
        process its part. Afterwards each of them knows the value.
        """
        if together.count == 1:
            return
        self._know(together.gather(self._sums()))
        missing = list(self._missing())
        part = -(-len(missing) // together.count)
        self._read(missing[together.rank * part :][:part])
        self._know(together.gather({number: self._distinct[number].sums for number in {one[0] for one in missing}}))

    def _sums(self) -> dict[int, Sums]:
        return {number: one.sums for number, one in enumerate(self._distinct)}

    def _know(self, found: Sequence[Mapping[int, Sums]]) -> None:
        for sums in found:
            for number, of_tensor in sums.items():
                self._distinct[number].sums.update(of_tensor)

    def _missing(self) -> Iterator[tuple[int, int]]:
        """Tensors' and blocks' numbers."""
        return ((number, block) for number, one in enumerate(self._distinct) for block in one.missing())

    def _read(self, blocks: Sequence[tuple[int, int]]) -> None:
        def read(place: tuple[int, int]) -> None:
            number, block = place
            self._distinct[number].read(block)

        num_threads = threads_of_files()
        if len(blocks) < 2 * num_threads:  # threads would cost more than they save
            for one in blocks:
                read(one)
            return
        with ThreadPoolExecutor(num_threads) as threads:
            for _ in threads.map(read, blocks):
                pass


def flat_value(tensors: Mapping[str, LazyTensor]) -> str:
    """The fingerprint as growths recorded it before tensors were cut into blocks: of all bytes of a tensor in order."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        hashed = hashlib.sha256()
        for start, stop in chunks(tensor):
            hashed.update(bytes_of(tensor.rows(start, stop)))
        total.update(_line(name, tensor, hashed.hexdigest()))
    return total.hexdigest()


def _line(name: str, tensor: LazyTensor, digest: str) -> bytes:
    return f"{name} {tensor.dtype} {list(tensor.shape)} {digest}\n".encode()


def _rows_per_block(tensor: LazyTensor) -> int:
    """A power of two, as the rows of the pieces are in which distributed checkpoints are written."""
    num_rows = tensor.shape[0] if tensor.shape else 1
    fit = BLOCK_BYTES * num_rows // max(1, num_bytes(tensor))
    return 2 ** (max(1, fit).bit_length() - 1)
