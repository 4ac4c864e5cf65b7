"""What two paths show of themselves before they are read: whether they are one, or stand in the wrong order."""

from __future__ import annotations

from pathlib import Path

from ckptgrow.errors import RequestError
from ckptgrow.storage.files.archive_signs import is_archive, mentions

RECORD, SIDECAR = "source_sha256", "ckptgrow.json"  # of a growth: in a file, and beside weights


def check_apart(small: Path, grown: Path) -> None:
    """Raises RequestError where both paths are one, or the first one alone was grown and is the larger."""
    if not small.exists() or not grown.exists():
        return
    if small.samefile(grown):
        raise RequestError(f"{grown}: is the small checkpoint itself, expected what was grown from it")
    if _num_bytes(small) > _num_bytes(grown) and _is_grown(small) and not _is_grown(grown):
        raise RequestError(
            f"{grown}: was not grown, and {small} was; expected the small checkpoint first, then what was grown from it"
        )


def _num_bytes(path: Path) -> int:
    files = [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]
    return sum(one.stat().st_size for one in files)


def _is_grown(path: Path) -> bool:
    """Whether a growth is recorded there, where that is quickly seen."""
    if path.is_dir():
        return (path / SIDECAR).is_file()
    return is_archive(path) and mentions(path, RECORD)
