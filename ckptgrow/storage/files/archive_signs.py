"""Whether a file can be a torch.save archive, told without torch."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from ckptgrow.addresses.stand_ins import described
from ckptgrow.errors import CheckpointError


def is_archive(path: Path) -> bool:
    """Whether a file is an archive, by the directory at its end."""
    return zipfile.is_zipfile(described(path))


def mentions(path: Path, word: str) -> bool:
    """Whether the pickle of an archive, its tensors aside, has a word among its texts."""
    try:
        with zipfile.ZipFile(described(path)) as archive:
            names = [one for one in archive.namelist() if one.endswith("data.pkl")]
            return any(word.encode() in archive.read(one) for one in names)
    except (
        zipfile.BadZipFile,
        OSError,
        zlib.error,
        RuntimeError,
        NotImplementedError,
    ):  # for its readers
        return False


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        begin = file.read(512)
    return bool(begin) and all(one in b"\t\n\r" or one >= 32 for one in begin) and begin.isascii()


def check_is_archive(path: Path) -> None:
    """Raises CheckpointError where a path is no zip file, as torch has written checkpoints from 1.6 on."""
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    if not path.is_file():
        raise CheckpointError(f"{path}: is not a file, expected a torch.save archive")
    if not is_archive(path):
        if _is_text(path):
            raise CheckpointError(f"{path}: is a text, expected a checkpoint, or the directory that it lies in")
        kind = "is empty" if path.stat().st_size == 0 else "is not a torch.save archive (zip), or cut short"
        raise CheckpointError(f"{path}: {kind}, expected a checkpoint written by torch 1.6 or later; copy it again")
