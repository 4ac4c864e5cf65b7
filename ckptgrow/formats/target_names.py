"""Which names a checkpoint of a kind may be written under, told without torch."""

from __future__ import annotations

from pathlib import Path

from ckptgrow.storage.files.targets import check_suffix

FILES = ("lightning", "torch")  # kinds that are one file
SHARED = ("dcp", "fsdp", "megatron")  # kinds that several processes can write together


def check_name(target: Path, kind: str) -> None:
    """Raises RequestError where a name says another kind."""
    # Lightning names directories of a distributed checkpoint .ckpt too
    check_suffix(target, is_directory=kind not in FILES, besides=".ckpt" if kind in SHARED else "")
