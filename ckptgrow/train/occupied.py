"""Lets only one process at a time train in a directory.

The lock is one of the kernel (`flock`), which ends with its process in any case, so that none is left behind.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ckptgrow.errors import RequestError

LOCK = ".lock"


@contextmanager
def occupied(directory: Path) -> Generator[None]:
    """Makes a directory if needed, and locks it until the block ends; an empty one is removed then.

    Raises RequestError where another process has locked it, or where it cannot be made.
    """
    made = _made(directory)
    try:
        descriptor = _locked(directory)
        try:
            yield
        finally:
            (directory / LOCK).unlink(missing_ok=True)  # while it is held, so that nobody waits for a file that is gone
            os.close(descriptor)
    finally:
        for one in made:
            if one.is_dir() and not any(one.iterdir()):
                one.rmdir()


def is_occupied(directory: Path) -> bool:
    """Whether a process works there; one on another machine is taken to do so as long as its lock file stands."""
    try:
        _, number, _, machine = (directory / LOCK).read_text(encoding="utf-8").split()
        if machine == os.uname().nodename:
            os.kill(int(number), 0)
    except PermissionError:  # it is another user's
        return True
    except (OSError, ValueError):
        return False
    return True


def _made(directory: Path) -> list[Path]:
    """The directories that had to be made, inner ones first."""
    missing = [one for one in (directory, *directory.parents) if not one.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"{directory}: cannot be made ({error.strerror}), expected a directory for the run"
        ) from error
    return missing


def _locked(directory: Path) -> int:
    """Locks the directory's lock file and returns its descriptor."""
    path = directory / LOCK
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 100, 0).decode("utf-8", "replace").strip()
            os.close(descriptor)
            raise RequestError(
                f"{directory}: {holder or 'another process'} trains here, expected one process a run; wait for it, or "
                "choose another ⟦out⟧"
            ) from error
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
            return descriptor
        os.close(descriptor)  # its holder removed the file between opening and locking
