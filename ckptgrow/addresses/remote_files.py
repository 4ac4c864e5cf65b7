"""Checkpoints as objects that fsspec reads and writes: s3://BUCKET/KEY, gs://…, and whatever else it knows.

What is read stands in for itself on this machine: a directory of the same names, in which small files are whole and
large ones are only names (`stand_ins`). What describes them, a header or an archive's directory, is fetched at once;
tensors' bytes are read by ranges from where they lie. What is written is made here first and then put there, what makes
it a checkpoint last, so that a run that is killed leaves nothing that looks whole.
"""

from __future__ import annotations

import atexit
import os
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from ckptgrow.addresses.stand_ins import RemoteFile, StandIn, stand_in
from ckptgrow.errors import CheckpointError, RequestError

WHOLE = 16 * 2**20  # bytes: a file up to this size is fetched at once
LARGEST_HEADER = 100 * 2**20  # bytes of a safetensors file, as its library has it
BEFORE_DATA = 1024  # bytes: an archive's entry begins with a header that is no longer, paddings included
OF_ARCHIVE = (".ckpt", ".pt", ".pth", ".bin")
OF_SLICES = (".distcp",)  # each an archive among others: where they lie is told elsewhere
MANIFESTS = ("*.index.json", "trainer_state.json", "latest", ".metadata", "config.json")  # the last one decides


_ADDRESSES: dict[str, str] = {}  # of what stands in for something else, by its path here


def as_typed(text: str) -> str:
    """A text in which addresses stand for the paths of what stands in for them."""
    for here, words in _ADDRESSES.items():
        text = text.replace(here, words)
    return text


def standing_in(words: str) -> Path:
    """The path of what stands in for a checkpoint elsewhere; it is gone when the program ends.

    Raises RequestError where there is none, or where it cannot be read.
    """
    system, root = _system(words)
    with _told(words):
        files = _files(system, root)
        if not files:
            raise RequestError(f"{words}: no such object, expected a checkpoint")
        parent = Path(tempfile.mkdtemp(prefix="ckptgrow-")).resolve()
        atexit.register(shutil.rmtree, parent, ignore_errors=True)
        here, outlines = (StandIn(parent, one, PurePosixPath(root).name) for one in ("here", "outlines"))
        for path, size in files.items():
            inside = path[len(root) :].strip("/")
            target, outline = (one / inside if inside else one for one in (here, outlines))
            for one in (target, outline):
                one.parent.mkdir(parents=True, exist_ok=True)
            _stand_in(RemoteFile(system, path, size), target, outline)
    _ADDRESSES.update({str(here): words, str(outlines): words})
    return here


def exists(words: str) -> bool:
    """Whether there is anything at an address."""
    system, root = _system(words)
    with _told(words):
        return bool(_files(system, root))


def put(made: Path, words: str) -> None:
    """Puts a file or a directory to an address, each file as a whole object, what makes it a checkpoint last.

    What lay there before is removed first. Raises RequestError where it cannot be written.
    """
    system, root = _system(words)
    with _told(words):
        if _files(system, root):
            system.rm(root, recursive=True)
        files = [made] if made.is_file() else sorted(one for one in made.rglob("*") if one.is_file())
        for one in sorted(files, key=_rank):
            inside = "" if one == made else f"/{one.relative_to(made).as_posix()}"
            system.put_file(str(one), f"{root}{inside}")


def _rank(path: Path) -> int:
    return next((number for number, one in enumerate(MANIFESTS) if path.match(one)), -1)


def _system(words: str) -> tuple[Any, str]:
    """The file system of an address and the path there; raises RequestError where nothing here speaks its protocol."""
    from fsspec.core import url_to_fs

    scheme = words.partition("://")[0]
    try:
        system, root = url_to_fs(words)
    except ImportError as error:
        needed = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}.get(scheme, "what fsspec needs for it")
        raise RequestError(f"{words}: {scheme}:// needs {needed}; install it: pip install {needed}") from error
    except ValueError as error:
        raise RequestError(f"{words}: nothing here reads {scheme}://, expected a path, hf:// or s3://") from error
    return system, root.rstrip("/")


@contextmanager
def _told(words: str) -> Generator[None]:
    """Errors of a file system as ours: what it raises is of libraries that it is made of."""
    try:
        yield
    except (RequestError, CheckpointError):
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise RequestError(f"{words}: cannot be reached ({reason})") from error


def _files(system: Any, root: str) -> dict[str, int]:
    """The sizes of the objects at a path or below it, by their paths."""
    system.invalidate_cache()  # somebody else may have written there
    try:
        found = system.find(root, detail=True)
    except FileNotFoundError:
        return {}
    return {path: int(info["size"]) for path, info in found.items() if not path.endswith("/")}


def _stand_in(remote: RemoteFile, target: Path, outline: Path) -> None:
    describing = _describing(target)
    if remote.size <= WHOLE or describing is None:
        remote.system.get_file(remote.path, str(target))
        return
    with outline.open("wb") as file:
        os.truncate(outline, remote.size)
        places = describing(remote)
        starts, ends = [start for start, _ in places], [min(end, remote.size) for _, end in places]
        for start, data in zip(
            starts, remote.system.cat_ranges([remote.path] * len(starts), starts, ends), strict=True
        ):
            file.seek(start)
            file.write(data)
    stand_in(target, remote, outline)


def _describing(target: Path) -> Callable[[RemoteFile], Sequence[tuple[int, int]]] | None:
    """How to find the ranges of a large file that say what is in it; None for a kind that is fetched whole."""
    if target.suffix == ".safetensors":
        return _header
    if target.suffix in OF_SLICES:
        return lambda remote: ()
    return _of_archive if target.suffix in OF_ARCHIVE else None


def _header(remote: RemoteFile) -> list[tuple[int, int]]:
    (length,) = struct.unpack("<Q", remote.system.cat_file(remote.path, start=0, end=8))
    return [(0, 8 + min(length, LARGEST_HEADER))]


def _of_archive(remote: RemoteFile) -> list[tuple[int, int]]:
    """The headers of all entries, whole entries beside tensors' data, and the directory; all of what is no archive."""
    try:
        with remote.system.open(remote.path, "rb") as file, zipfile.ZipFile(file) as archive:
            infos, directory = archive.infolist(), archive.start_dir
    except zipfile.BadZipFile:
        return [(0, remote.size)]
    ranges = [(directory, remote.size)]
    for info in infos:
        is_data = "/data/" in info.filename
        begin = info.header_offset
        ranges.append((begin, begin + BEFORE_DATA + (0 if is_data else info.file_size)))
    return ranges
