"""Outputs appear whole or not at all: written beside the target, flushed, renamed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ckptgrow.errors import RequestError


def check_target(source: Path, target: Path, *, force: bool) -> None:
    """Raises RequestError where writing `target` would overwrite the source, or something else without `force`."""
    if target.exists() and source.exists() and target.samefile(source):
        raise RequestError(f"{target}: is the input itself, expected another path")
    if target.exists() and not force:
        raise RequestError(f"{target}: exists already; choose another path, or pass --force to replace it")
    if not target.parent.is_dir():
        raise RequestError(f"{target.parent}: no such directory, expected one to write {target.name} into")


def check_space(target: Path, num_bytes: int) -> None:
    """Raises RequestError where the disk has not `num_bytes` free."""
    free = shutil.disk_usage(target.parent).free
    if free < num_bytes:
        raise RequestError(
            f"{target.parent}: has {free / 2**30:.2f} GiB free, expected {num_bytes / 2**30:.2f} GiB for "
            f"{target.name}; make room or choose another disk"
        )


@contextmanager
def appearing(target: Path) -> Generator[Path]:
    """A path beside `target` to write to; it becomes `target` when the block ends well, and goes away otherwise."""
    clear_leftovers(target)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield partial
        if target.is_dir():
            _remove(target)
        partial.replace(target)
        _flush_directory(target.parent)
    finally:
        _remove(partial)


def clear_leftovers(target: Path) -> None:
    """Removes what processes that were killed while writing `target` left beside it; those that live keep theirs."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.(\d+)\.partial")
    for path in target.parent.iterdir():
        match = pattern.fullmatch(path.name)
        if match is not None and not _is_alive(int(match[1])):
            _remove(path)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()


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
