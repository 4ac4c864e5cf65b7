"""Paths on this machine that stand in for large objects elsewhere.

A stand-in has a name, a size and a kind as the object has, and `open` reads the object. Its bytes are not on this
machine: what a library finds by the name is a link that leads nowhere, so a library that opens it by itself fails, and
never reads zeros for what was not fetched. Who needs only what describes the tensors asks for the `outline`.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ckptgrow.errors import CheckpointError, reason_of


@dataclass(frozen=True)
class RemoteFile:
    """An object: the file system that fsspec reads it through, its path there, and its size in bytes."""

    system: Any
    path: str
    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Bytes [offset, offset + length), or fewer at the end; raises CheckpointError where they cannot be read."""
        try:
            return self.system.cat_file(self.path, start=offset, end=min(offset + length, self.size))
        except OSError as error:
            raise CheckpointError(f"{self.path}: could not be read ({reason_of(error)})") from error


@dataclass(frozen=True)
class _Elsewhere:
    remote: RemoteFile
    outline: Path


_STANDING_IN: dict[Path, _Elsewhere] = {}


class StandIn(type(Path())):
    """A path that stands in for an object or is made of such, and every path that is made of it."""

    __slots__ = ()

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """See Path; the size is the object's."""
        found = _STANDING_IN.get(self)
        return super().stat(follow_symlinks=follow_symlinks) if found is None else found.outline.stat()

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """See Path."""
        return self in _STANDING_IN or super().exists()

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """See Path."""
        return self in _STANDING_IN or super().is_file()

    def resolve(self, strict: bool = False) -> StandIn:
        """Itself: the link that stands for an object leads nowhere."""
        return self

    def open(self, mode: str = "r", *args: Any, **options: Any) -> IO[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Opens the object, by ranges, for reading alone: OSError otherwise; see Path."""
        found = _STANDING_IN.get(self)
        if found is None:
            return super().open(mode, *args, **options)
        if set(mode) - set("rbt"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        return found.remote.system.open(found.remote.path, mode)


def stand_in(path: Path, remote: RemoteFile, outline: Path) -> None:
    """Makes a path stand in for an object; `outline` is a file as long as it, of whose bytes only those that describe
    the tensors are there.
    """
    path.symlink_to(outline.parent / "elsewhere" / "nothing")  # never made
    _STANDING_IN[path] = _Elsewhere(remote, outline)


def described(path: Path) -> Path:
    """A file in which the bytes beside the tensors' data are those of `path`: itself, or the outline of an object.

    For those who read what describes the tensors, and no tensor.
    """
    found = _STANDING_IN.get(path)
    return path if found is None else found.outline


def read_range(path: Path, offset: int, view: memoryview) -> int:
    """Reads a file's bytes from an offset on into a view, wherever they lie; returns how many there were.

    Raises CheckpointError where an object cannot be read.
    """
    found = _STANDING_IN.get(path)
    if found is None:
        return _read_here(path, offset, view)
    data = found.remote.read(offset, len(view))
    view[: len(data)] = data
    return len(data)


def _read_here(path: Path, offset: int, view: memoryview) -> int:
    done = 0
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while done < len(view):
            got = os.preadv(descriptor, [view[done:]], offset + done)
            if got == 0:
                break
            done += got
    finally:
        os.close(descriptor)
    return done


def fetched_whole(path: Path) -> Path:
    """The same path, the object's bytes fetched to it where it only stood in for one; raises CheckpointError where they
    cannot be.
    """
    found = _STANDING_IN.get(path)
    if found is not None:
        try:
            found.remote.system.get_file(found.remote.path, str(found.outline))
        except OSError as error:
            raise CheckpointError(f"{found.remote.path}: could not be read ({reason_of(error)})") from error
        found.outline.replace(path)  # the link goes when all bytes are here
        del _STANDING_IN[path]
    return path
