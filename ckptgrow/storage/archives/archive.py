"""torch's zip archives (`torch.save`), read as a tree of lazy tensors.

Reading unpickles with `weights_only=True` onto the meta device, so no code of the file runs and no tensor is loaded.
Where the pickle names classes of the user's, a second reading puts inert stand-ins in their place (see `opaque`).
"""

from __future__ import annotations

import pickle
import struct
import types
import warnings
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import IO, BinaryIO

import torch

from ckptgrow.addresses.stand_ins import described
from ckptgrow.errors import CheckpointError, UnsafePickleError, listing
from ckptgrow.storage.files.archive_signs import check_is_archive
from ckptgrow.storage.pickles.opaque_pickles import BY_NAME, PLAIN_CLASSES, is_refused, unpickler_of
from ckptgrow.storage.tensors import Stored, num_bytes, num_elements
from ckptgrow.storage.tree import Tree, map_leaves

LARGEST_PICKLE = 512 * 2**20  # bytes of a tree without its tensors; a million tensors take a tenth of it
LARGEST_NOTE = 2**16  # bytes of any entry beside the pickle and the storages
LARGEST_EXPANDED = 2**20  # bytes of a tensor that repeats its storage (broadcast masks and positions)
DAMAGES = (
    *(RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError),
    *(AssertionError, UnicodeError, MemoryError, struct.error, pickle.UnpicklingError),
)

_LOCAL_SIGNATURE = b"PK\x03\x04"
_DESCRIPTOR_SIGNATURE, _CENTRAL_SIGNATURE, _CENTRAL_LENGTH = b"PK\x07\x08", b"PK\x01\x02", 46
_LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")


def read(path: Path) -> Tree:
    """The archive's tree, its tensors `Stored`; tensors that share their place in the file are the same object.

    Raises CheckpointError for what is not a whole archive, UnsafePickleError for pickles that name code.
    """
    sizes = _record_sizes(path)
    located = _Located(path, sizes)
    try:
        with torch.serialization.safe_globals([*PLAIN_CLASSES]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of TypedStorage, which old files name
            tree = _load(path, located)
        return map_leaves(tree, torch.is_tensor, located.stored)
    except RecursionError as error:
        raise CheckpointError(f"{path}: nests deeper than any training state, expected plain containers") from error
    except DAMAGES as error:
        raise _damaged(path, (str(error).strip() or type(error).__name__).split("\n")[0]) from error


def _damaged(path: Path | str, reason: str) -> CheckpointError:
    return CheckpointError(f"{path}: damaged, expected a whole torch.save archive ({reason}); copy it again")


def _load(path: Path, located: _Located) -> object:
    try:
        return torch.load(described(path), map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(described(path))
        if not named:
            raise
        refused = [one for one in named if one not in BY_NAME and is_refused(*one.rpartition(".")[::2])]
        if refused:
            raise _unsafe(path, listing(refused)) from error
        module = types.SimpleNamespace(__name__=__name__, Unpickler=unpickler_of(located.stored))
        try:
            return torch.load(described(path), map_location="meta", weights_only=False, pickle_module=module)
        except (pickle.UnpicklingError, TypeError, AttributeError) as reason:
            raise _unsafe(path, f"{listing(named)}; {reason}") from error


def _unsafe(path: Path, named: str) -> UnsafePickleError:
    return UnsafePickleError(
        f"{path}: its pickle names code that ckptgrow does not run ({named}), expected tensors, plain values and "
        "objects of the user's classes; save it again without these objects"
    )


def data_offset(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where an entry's bytes begin; raises BadZipFile where something else than the entry stands there."""
    file.seek(info.header_offset)
    header = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    name_length, extra_length = header[-2:]
    name = file.read(name_length).decode("utf-8", "replace")
    if header[0] != _LOCAL_SIGNATURE or header[3] != info.compress_type or name != info.orig_filename:
        raise zipfile.BadZipFile(f"another entry stands where {info.filename} should")
    return info.header_offset + _LOCAL_HEADER.size + name_length + extra_length


def entries_by_place(file: BinaryIO) -> dict[int, zipfile.ZipInfo]:
    """All entries of an archive by where their bytes begin."""
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
    return {data_offset(file, info): info for info in infos}


def checksum_places(file: BinaryIO) -> dict[int, tuple[int, ...]]:
    """Where the CRC-32 of every entry stands, by where the entry's bytes begin: in the central directory, and behind
    the bytes where there is a data descriptor. Raises BadZipFile where the directory is none that torch writes.
    """
    with zipfile.ZipFile(file) as archive:
        infos, position = archive.infolist(), archive.start_dir
    places: dict[int, tuple[int, ...]] = {}
    for info in infos:
        start = data_offset(file, info)
        end = start + info.file_size
        file.seek(position)
        entry = file.read(_CENTRAL_LENGTH)
        if entry[:4] != _CENTRAL_SIGNATURE:
            raise zipfile.BadZipFile("unexpected central directory; this torch writes archives differently")
        file.seek(end)
        has_descriptor = file.read(4) == _DESCRIPTOR_SIGNATURE
        places[start] = (position + 16, end + 4) if has_descriptor else (position + 16,)
        position += _CENTRAL_LENGTH + sum(struct.unpack("<HHH", entry[28:34]))  # name, extra, comment
    return places


def check_sums(archive_file: Path | IO[bytes], where: str) -> None:
    """Reads all of an archive; raises CheckpointError where an entry's CRC-32 is not the recorded one.

    torch can be told to record none (`torch.serialization.set_crc32_options`); then entries have the checksum zero.
    """
    file = archive_file.open("rb") if isinstance(archive_file, Path) else nullcontext(archive_file)
    with file as opened, zipfile.ZipFile(opened) as archive:
        for info in archive.infolist():
            if info.CRC != 0 and not _matches_its_checksum(archive, info):
                raise CheckpointError(
                    f"{where}: entry {info.filename} has another checksum than recorded; it was damaged after it was "
                    "written, copy it again"
                )


def _matches_its_checksum(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(info) as entry:
            while entry.read(2**20):
                pass
    except zipfile.BadZipFile:
        return False
    return True


def _record_sizes(path: Path) -> dict[int, int]:
    """The size of every entry by where its bytes begin.

    Raises CheckpointError where the archive is none, or its directory cannot be true.
    """
    check_is_archive(path)
    with described(path).open("rb") as file:
        return entry_sizes(file, str(path))


def entry_sizes(file: BinaryIO, where: str) -> dict[int, int]:
    """The size of every entry of an archive by where its bytes begin.

    Raises CheckpointError where the directory and what stands at the entries contradict each other, where entries
    overlap, or are of no kind that torch writes for little-endian machines.
    """
    sizes: dict[int, int] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
            if len({info.filename.lower() for info in infos}) != len(infos):
                raise CheckpointError(f"{where}: names an entry twice, expected each once; copy it again")
            ends = [*(info.header_offset for info in infos[1:]), archive.start_dir]
            for info, end in zip(infos, ends, strict=True):
                start = data_offset(file, info)
                _check_entry(archive, info, where)
                if start + info.file_size > end:
                    raise CheckpointError(f"{where}: entry {info.filename} leads into the next one; copy it again")
                sizes[start] = info.file_size
    except (zipfile.BadZipFile, struct.error, ValueError, OverflowError, NotImplementedError, EOFError) as error:
        raise _damaged(where, str(error)) from error
    return sizes


def _check_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> None:
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
        raise CheckpointError(f"{where}: entry {info.filename} is compressed or encrypted, expected plain bytes")
    _, _, inner = info.filename.partition("/")
    if inner == "data.pkl" and info.file_size > LARGEST_PICKLE:
        raise CheckpointError(f"{where}: its pickle has {info.file_size} bytes, expected {LARGEST_PICKLE}")
    if inner == "data.pkl" and b"bytearray" in archive.read(info):  # torch would make one of any size
        raise UnsafePickleError(f"{where}: its pickle makes a bytearray, expected tensors and plain values")
    if inner == "constants.pkl":
        raise CheckpointError(f"{where}: is a TorchScript program, expected a training checkpoint")
    if not inner.startswith("data/") and inner != "data.pkl" and info.file_size > LARGEST_NOTE:
        raise CheckpointError(f"{where}: entry {info.filename} has {info.file_size} bytes, expected {LARGEST_NOTE}")
    if inner == "byteorder" and archive.read(info) != b"little":
        raise CheckpointError(f"{where}: was written on a big-endian machine, expected a little-endian one")


class _Located:
    """Turns the meta tensors of a loaded tree into stored ones; equal places become the same object."""

    def __init__(self, path: Path, sizes: dict[int, int]) -> None:
        self.path = path
        self._sizes = sizes
        self._seen: dict[Stored, Stored] = {}

    def stored(self, meta: torch.Tensor) -> Stored:
        """Where a meta tensor's data lies; raises CheckpointError where that is not inside an entry of the archive."""
        if meta.layout is not torch.strided:
            raise CheckpointError(f"{self.path}: holds a tensor of layout {meta.layout}, expected plain dense tensors")
        start: int | None = meta.untyped_storage()._checkpoint_offset  # pyright: ignore[reportPrivateUsage]
        if start is None:
            raise CheckpointError(f"{self.path}: holds a tensor without data, expected plain dense tensors")
        stored = Stored(
            path=self.path,
            offset=start + int(meta.storage_offset()) * meta.dtype.itemsize,
            shape=tuple(meta.shape),
            dtype=meta.dtype,
            stride=tuple(meta.stride()),
        )
        self._check(stored, start)
        return self._seen.setdefault(stored, stored)

    def _check(self, stored: Stored, start: int) -> None:
        if num_elements(stored) == 0:
            return
        room = self._sizes.get(start, 0) - (stored.offset - start)
        if stored.span * stored.dtype.itemsize > room:
            raise CheckpointError(
                f"{self.path}: a tensor of shape {list(stored.shape)} needs {stored.span * stored.dtype.itemsize} "
                f"bytes of a storage of {room}; copy it again, it is damaged"
            )
        if num_elements(stored) > stored.span and num_bytes(stored) > LARGEST_EXPANDED:
            raise CheckpointError(f"{self.path}: a tensor of shape {list(stored.shape)} repeats {stored.span} elements")
