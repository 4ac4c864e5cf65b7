"""torch's zip archives (`torch.save`): read as a tree of lazy tensors, written a few megabytes at a time.

Reading unpickles with `weights_only=True` under fake tensors, so no code of the file runs and no tensor is loaded.
Writing lets torch lay out the archive without data (`skip_data`), fills every storage in place, and then mends the
checksums that torch could not know.
"""

from __future__ import annotations

import datetime
import os
import pathlib
import pickle
import struct
import warnings
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch._subclasses.fake_tensor import FakeTensorMode  # torch documents skip_data with this import

from ckptgrow.checkpoints.filling import fill
from ckptgrow.checkpoints.progress import Advance
from ckptgrow.checkpoints.tensors import LazyTensor, Stored
from ckptgrow.checkpoints.tree import map_leaves
from ckptgrow.errors import CheckpointError, UnsafePickleError, listing

# Plain data that training scripts put beside their tensors; building them runs no code of the file.
PLAIN_CLASSES: list[Any] = [Namespace, datetime.timedelta, pathlib.PosixPath, pathlib.PurePosixPath]

_LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")
_DESCRIPTOR_SIGNATURE = b"PK\x07\x08"
_CENTRAL_SIGNATURE = b"PK\x01\x02"


def read(path: Path) -> Any:
    """The archive's tree, its tensors `Stored`; tensors that share their place in the file are the same object.

    Raises CheckpointError for what is no whole archive, UnsafePickleError for pickles that name code.
    """
    _check_is_archive(path)
    try:
        with torch.serialization.safe_globals(PLAIN_CLASSES), FakeTensorMode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of TypedStorage, which old files name
            tree = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{path}: damaged, expected a whole torch.save archive ({reason})") from error
    return map_leaves(tree, torch.Tensor, _Located(path).stored)


def write(tree: Any, path: Path, advance: Advance) -> None:
    """Writes a tree to `path`, which is made or overwritten; `advance` is told the bytes of every piece written.

    The result is a valid zip archive, checksums included, and flushed to the disk.
    """
    skeleton, tensors = _skeleton(tree)
    with path.open("wb") as file, torch.serialization.skip_data(materialize_fake_tensors=True), FakeTensorMode():
        torch.save(skeleton, file)
    placed = read_offsets(path, len(tensors))
    with path.open("r+b") as file:
        checksums: dict[int, int] = {}
        for tensor, offset in zip(tensors, placed, strict=True):
            checksums[offset] = fill(file, tensor, offset, advance)
        _mend_checksums(file, path, checksums)
        file.flush()
        os.fsync(file.fileno())


def read_offsets(path: Path, num_storages: int) -> list[int]:
    """Where the data of each storage begins, in the order in which torch numbers them."""
    with zipfile.ZipFile(path) as archive:
        names = {info.filename: info for info in archive.infolist()}
        root = next(iter(names)).split("/")[0]
        infos = [names[f"{root}/data/{number}"] for number in range(num_storages)]
    with path.open("rb") as file:
        return [_data_offset(file, info) for info in infos]


def _data_offset(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    file.seek(info.header_offset)
    header = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    name_length, extra_length = header[-2:]
    return info.header_offset + _LOCAL_HEADER.size + name_length + extra_length


def _skeleton(tree: Any) -> tuple[Any, list[LazyTensor]]:
    """The tree with fake tensors, and its distinct tensors in the order in which torch will meet their storages."""
    tensors: dict[int, LazyTensor] = {}
    fakes: dict[int, torch.Tensor] = {}
    with FakeTensorMode() as mode:

        def fake(tensor: LazyTensor) -> torch.Tensor:
            if id(tensor) not in fakes:
                tensors[id(tensor)] = tensor
                with mode:
                    fakes[id(tensor)] = torch.empty(tensor.shape, dtype=tensor.dtype)
            return fakes[id(tensor)]

        return map_leaves(tree, LazyTensor, fake), list(tensors.values())


def _mend_checksums(file: BinaryIO, path: Path, checksums: dict[int, int]) -> None:
    """Puts the right CRC-32 into every data descriptor and central directory entry that torch left at zero."""
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        position = archive.start_dir
    for info in infos:
        data_offset = _data_offset(file, info)
        file.seek(position)
        entry = file.read(46)
        name_length, extra_length, comment_length = struct.unpack("<HHH", entry[28:34])
        if entry[:4] != _CENTRAL_SIGNATURE:
            raise CheckpointError(f"{path}: unexpected central directory; this torch writes archives differently")
        if data_offset in checksums and info.filename.rpartition("/")[0].endswith("/data"):
            checksum = struct.pack("<I", checksums[data_offset])
            os.pwrite(file.fileno(), checksum, position + 16)
            _mend_descriptor(file, data_offset + info.file_size, checksum)
        position += 46 + name_length + extra_length + comment_length


def _mend_descriptor(file: BinaryIO, offset: int, checksum: bytes) -> None:
    if os.pread(file.fileno(), 4, offset) == _DESCRIPTOR_SIGNATURE:
        os.pwrite(file.fileno(), checksum, offset + 4)


def _check_is_archive(path: Path) -> None:
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    if not path.is_file():
        raise CheckpointError(f"{path}: is no file, expected a torch.save archive")
    if not zipfile.is_zipfile(path):
        kind = "is empty" if path.stat().st_size == 0 else "is no torch.save archive (zip), or cut short"
        raise CheckpointError(f"{path}: {kind}, expected a checkpoint written by torch 1.6 or later; copy it again")


def _refused(path: Path, error: Exception) -> CheckpointError:
    """The pickle was not run: it is damaged, or it names code."""
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception as cause:
        return CheckpointError(f"{path}: its pickle is damaged ({cause}), expected a whole torch.save archive")
    named = [name for name in named if name not in _names(PLAIN_CLASSES)]
    if named:
        return UnsafePickleError(
            f"{path}: its pickle names code that ckptgrow does not run ({listing(named)}), expected tensors and plain "
            "values; save it again without these objects"
        )
    return CheckpointError(f"{path}: its pickle is damaged ({str(error).strip().splitlines()[0]})")


def _names(classes: list[Any]) -> set[str]:
    return {f"{one.__module__}.{one.__qualname__}" for one in classes}


class _Located:
    """Turns the fake tensors of a loaded tree into stored ones; equal places become the same object."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = path.stat().st_size
        self._seen: dict[Stored, Stored] = {}

    def stored(self, fake: torch.Tensor) -> Stored:
        """Where a fake tensor's data lies."""
        storage = fake.untyped_storage()
        start: int | None = storage._checkpoint_offset  # pyright: ignore[reportPrivateUsage]
        if start is None or fake.layout is not torch.strided:
            raise CheckpointError(f"{self.path}: holds a tensor of layout {fake.layout}, expected plain dense tensors")
        if start + storage.nbytes() > self._size:
            raise CheckpointError(f"{self.path}: ends inside a tensor; copy it again, it is truncated")
        offset = start + int(fake.storage_offset()) * fake.dtype.itemsize
        stored = Stored(self.path, offset, tuple(fake.shape), fake.dtype, tuple(fake.stride()))
        return self._seen.setdefault(stored, stored)
