"""torch's zip archives (`torch.save`), written a few megabytes at a time.

torch lays out the archive without data (`skip_data`), every storage is filled in place, and then the checksums that
torch could not know are mended.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import struct
import types
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from zlib_ng import zlib_ng

from ckptgrow.errors import CheckpointError
from ckptgrow.progress import Advance
from ckptgrow.storage.archives.archive import checksum_places, data_offset
from ckptgrow.storage.files.tensor_writing import Extent, FileLayout, fill
from ckptgrow.storage.fingerprint import Fingerprint
from ckptgrow.storage.pickles.opaque_pickles import pickler_of
from ckptgrow.storage.tensors import LazyTensor, num_bytes
from ckptgrow.storage.tree import Tree

IDENTITY = ".data/serialization_id"


def write(tree: Tree, path: Path, advance: Advance, source: Fingerprint | None = None) -> None:
    """Writes a tree to `path`, which is made or overwritten; `advance` is told the bytes of every piece written.
    Where the tree holds the placeholder of `source`, its value takes the place when all tensors are written.

    The result is a valid zip archive, checksums included, and flushed to the disk.
    """
    fill([outline(tree, path, source)], advance)


def outline(tree: Tree, path: Path, source: Fingerprint | None = None) -> FileLayout:
    """Writes a tree to `path` without its tensors' data, which is to be filled; see `write`."""
    hollows = Hollows()
    module = types.SimpleNamespace(__name__=__name__, Pickler=pickler_of(hollows.hollow))
    with path.open("wb") as file, torch.serialization.skip_data():
        try:
            torch.save(tree, file, pickle_module=module)
        except RuntimeError as error:  # what torch makes of any failure to write
            raise OSError(errno.EFBIG, f"torch could not lay out {hollows.num_bytes} bytes as one file") from error
    offsets = _storage_offsets(path, len(hollows.tensors))

    def finish(file: BinaryIO, checksums: Sequence[int]) -> None:
        by_offset = dict(zip(offsets, checksums, strict=True))
        if source is not None:
            by_offset |= _put_fingerprint(file, path, source)
        by_offset |= _put_identity(file, path, by_offset)
        _mend_checksums(file, path, by_offset)

    places = [Extent(tensor, offset) for tensor, offset in zip(hollows.tensors.values(), offsets, strict=True)]
    return FileLayout(path, places, finish)


class Hollows:
    """One tensor without memory a lazy one, and the lazy ones in the order in which torch met their storages.

    They look into mapped pages that nobody touches, one mapping a dtype: torch refuses two dtypes at one address.
    """

    def __init__(self) -> None:
        self.tensors: dict[int, LazyTensor] = {}
        self._hollows: dict[int, torch.Tensor] = {}
        self._pages: dict[torch.dtype, mmap.mmap] = {}

    @property
    def num_bytes(self) -> int:
        """The bytes of all tensors."""
        return sum(map(num_bytes, self.tensors.values()))

    def hollow(self, tensor: LazyTensor) -> torch.Tensor:
        """The stand-in of a lazy tensor, of its shape and dtype, with a storage of its own."""
        if id(tensor) not in self._hollows:
            self.tensors[id(tensor)] = tensor
            self._hollows[id(tensor)] = self._made(tensor)
        return self._hollows[id(tensor)]

    def _made(self, tensor: LazyTensor) -> torch.Tensor:
        length = num_bytes(tensor)
        if length == 0:
            return torch.empty(tensor.shape, dtype=tensor.dtype)
        if tensor.dtype not in self._pages or len(self._pages[tensor.dtype]) < length:
            self._pages[tensor.dtype] = mmap.mmap(-1, length)
        pages = self._pages[tensor.dtype]
        return torch.frombuffer(pages, dtype=torch.uint8, count=length).view(tensor.dtype).view(tensor.shape)


def _storage_offsets(path: Path, num_storages: int) -> list[int]:
    """Where the data of each storage begins, in the order in which torch numbers them."""
    with zipfile.ZipFile(path) as archive:
        names = {info.filename: info for info in archive.infolist()}
        root = next(iter(names)).split("/")[0]
        infos = [names[f"{root}/data/{number}"] for number in range(num_storages)]
    with path.open("rb") as file:
        return [data_offset(file, info) for info in infos]


def _put_fingerprint(file: BinaryIO, path: Path, source: Fingerprint) -> dict[int, int]:
    """Puts the value over the placeholder in the pickle; returns the pickle's new CRC-32 by its place."""
    with zipfile.ZipFile(path) as archive:
        info = next(one for one in archive.infolist() if one.filename.endswith("data.pkl"))
    start = data_offset(file, info)
    pickled = os.pread(file.fileno(), info.file_size, start)
    mended = pickled.replace(source.placeholder.encode(), source.value().encode())
    os.pwrite(file.fileno(), mended, start)
    return {start: zlib_ng.crc32(mended)}


def _put_identity(file: BinaryIO, path: Path, checksums: dict[int, int]) -> dict[int, int]:
    """Names the archive by its contents, so that equal ones are equal files: torch's own number knows none of the data,
    but the placeholder. Returns the number's CRC-32 by its place.
    """
    with zipfile.ZipFile(path) as archive:
        info = next((one for one in archive.infolist() if one.filename.endswith(IDENTITY)), None)
    if info is None:  # of a torch that writes none
        return {}
    digits = identity_of([checksums[start] for start in sorted(checksums)], info.file_size)
    start = data_offset(file, info)
    os.pwrite(file.fileno(), digits, start)
    return {start: zlib_ng.crc32(digits)}


def identity_of(checksums: Sequence[int], length: int) -> bytes:
    """The number of an archive whose tensors' data have these CRC-32, as `length` digits."""
    told = ",".join(f"{one:08x}" for one in checksums).encode()
    return str(int(hashlib.sha256(told).hexdigest(), 16)).zfill(length)[-length:].encode()


def _mend_checksums(file: BinaryIO, path: Path, checksums: dict[int, int]) -> None:
    """Puts the right CRC-32 into every data descriptor and central directory entry that torch left at zero."""
    try:
        places = checksum_places(file)
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path}: {error}") from error
    for start, checksum in checksums.items():
        for place in places[start]:
            os.pwrite(file.fileno(), struct.pack("<I", checksum), place)
