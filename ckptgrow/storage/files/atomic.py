"""Makes outputs appear whole or not at all: they are written beside the target, flushed, and renamed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from ckptgrow.distributed import Processes
from ckptgrow.errors import RequestError

PARTIAL, REPLACED = ".partial", ".replaced.partial"
ABANDONED = 24 * 3600.0  # seconds without a change, after which what another machine left counts as left by the dead


def check_space(target: Path, num_bytes: int) -> None:
    """Raises RequestError where the disk has not `num_bytes` free."""
    free = shutil.disk_usage(target.parent).free
    if free < num_bytes:
        raise RequestError(
            f"{target.parent}: has {free / 2**30:.2f} GiB free, expected {num_bytes / 2**30:.2f} GiB for "
            f"{target.name}; make room or choose another disk"
        )


@contextmanager
def appearing(target: Path, together: Processes | None = None, *, force: bool = True) -> Generator[Path]:
    """A path beside `target` to write to; it becomes `target` when the block ends well, and goes away otherwise.

    Processes that write together get the same path, and the first of them does the rest. What earlier runs left beside
    `target` because they were killed is removed first. Without `force`, raises RequestError where something has come
    to be at `target` meanwhile: of several that write there, the first to end keeps it.
    """
    together = together or Processes()
    partial = together.agree_on(_beside(target, PARTIAL))
    if together.rank == 0:
        clear_leftovers(target)
    together.wait()
    try:
        yield partial
        together.wait()
        if together.rank == 0:
            (_put_in_place if force else _put_in_free_place)(partial, target)
        together.wait()
    finally:
        if together.rank == 0:
            _remove(partial)


def _put_in_place(partial: Path, target: Path) -> None:
    """Replaces a target by a whole output.

    An old directory is moved aside first, as no other can be renamed onto it.
    """
    if target.is_dir() and not target.is_symlink():
        aside = _beside(target, REPLACED)
        try:
            target.rename(aside)
            partial.rename(target)
        except BaseException:
            if not target.exists():
                aside.rename(target)
            raise
        _flush_directory(target.parent)
        _remove(aside)
    else:
        partial.replace(target)
        _flush_directory(target.parent)


def _put_in_free_place(partial: Path, target: Path) -> None:
    """Puts an output in a place that must be free; nothing that is there is replaced, except an empty directory."""
    try:
        if partial.is_dir():
            partial.rename(target)
        else:
            _link(partial, target)
    except OSError as error:
        if not target.exists():
            raise
        raise RequestError(
            f"{target}: exists now, written by another process while this one was at work; choose another path, or "
            "pass ⟦force⟧ to replace it"
        ) from error
    _flush_directory(target.parent)


def _link(partial: Path, target: Path) -> None:
    try:
        os.link(partial, target)
    except OSError:
        if target.exists():
            raise
        os.close(os.open(target, os.O_CREAT | os.O_EXCL))  # a file system without hard links: claimed, then replaced
        partial.replace(target)


def clear_leftovers(target: Path) -> bool:
    """Removes what runs that no longer exist wrote for the same target; an old target that one of them had moved aside
    takes its place again. Returns whether one did.

    Of runs on other machines that share the disk only the files tell: they are gone when nothing has changed in
    `ABANDONED` seconds.
    """
    is_back = False
    pattern = re.compile(rf"\.{re.escape(target.name)}\.(?:([0-9a-f]{{8}})\.)?(\d+)(\.replaced)?{re.escape(PARTIAL)}")
    for one in target.parent.iterdir():
        match = pattern.fullmatch(one.name)
        if match is None:
            continue
        if _was_changed(one) if match[1] not in (None, _machine()) else _is_running(int(match[2])):
            continue
        if match[3] and not target.exists():
            one.rename(target)
            is_back = True
        else:
            _remove(one)
    return is_back


def _beside(target: Path, end: str) -> Path:
    """A hidden path beside a target, by this machine and process."""
    return target.with_name(f".{target.name}.{_machine()}.{os.getpid()}{end}")


@cache
def _machine() -> str:
    """Eight digits for where the numbers of processes are this one's: a machine, or a container of its own."""
    processes = Path("/proc/self/ns/pid")
    number = processes.stat().st_ino if processes.exists() else 0
    return hashlib.sha256(f"{socket.gethostname()} {number}".encode()).hexdigest()[:8]


def _was_changed(path: Path) -> bool:
    """Whether a file, or one in a directory, has changed lately, or goes away just now."""
    try:
        times = [one.stat().st_mtime for one in (path, *path.rglob("*"))]
    except FileNotFoundError:
        return True
    return time.time() - max(times) < ABANDONED


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
