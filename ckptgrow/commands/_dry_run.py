"""What `--dry-run` tells of an output that is not written: its size on the disk, rates, and what goes along."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

from ckptgrow.addresses.address import is_address, typed
from ckptgrow.commands._screen import Screen

if TYPE_CHECKING:
    from ckptgrow.formats.checkpoint import Checkpoint

EXIT_WRONG = 2
RATES = ("lr", "weight_decay", "eps")
NOTHING_WRITTEN = "dry run: nothing is written, and no tensor was read"


@dataclass(frozen=True)
class Room:
    """The bytes that an output takes, and those that are free where it would lie."""

    needed: int
    free: int

    @property
    def is_enough(self) -> bool:
        """Whether it fits."""
        return self.needed <= self.free


def room_for(checkpoint: Checkpoint, target: Path) -> Room:
    """What a checkpoint would take at a path."""
    from ckptgrow.formats.known_formats import space_needed

    return Room(space_needed(checkpoint), shutil.disk_usage(_written_in(target)).free)


def _written_in(target: Path) -> Path:
    """The directory whose disk an output needs: for an address that of temporary files, where it is made first."""
    return Path(gettempdir()) if is_address(target) else target.absolute().parent


def tell_room(room: Room, target: Path, screen: Screen) -> int:
    """Says whether the output fits; returns the exit code that writing it would have."""
    screen.say(
        f"{typed(target)}: takes {_size(room.needed)} of disk; {_size(room.free)} are free in {_written_in(target)}"
    )
    if not room.is_enough:
        screen.warn("it does not fit: make room or choose another disk")
    return 0 if room.is_enough else EXIT_WRONG


def tell_rates(old: Checkpoint, new: Checkpoint, screen: Screen) -> None:
    """A table of the groups' rates before and after."""
    rows = [
        (when, one["optimizer"], one["tensors"], *(one[rate] for rate in RATES))
        for when, groups in (("before", groups_of(old)), ("after", groups_of(new)))
        for one in groups
    ]
    if rows:
        screen.table("rates", ("", "optimizer", "tensors", "lr", "weight decay", "eps"), rows)


def groups_of(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Every group of every optimizer: how many tensors it has, and its rates, None where they are not numbers."""
    return [
        {
            "optimizer": index,
            "tensors": len(group.keys),
            **{rate: value if isinstance(value := group.options.get(rate), int | float) else None for rate in RATES},
        }
        for index, optimizer in enumerate(checkpoint.optimizers)
        for group in optimizer.groups
    ]


def carried_in(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """What goes along with the tensors, and what stays behind."""
    return {
        "global_step": checkpoint.position.global_step,
        "optimizers": len(checkpoint.optimizers),
        "schedulers": len(checkpoint.schedulers),
        "scaler": checkpoint.scaler is not None,
        "other": sorted(str(name) for name, value in checkpoint.rest.items() if value is not None),
        "files": list(checkpoint.carried.files),
        "left_behind": list(checkpoint.carried.left_behind),
    }


def tell_carried(checkpoint: Checkpoint, screen: Screen) -> None:
    """A table of what goes along and what stays behind."""
    rows = [(name, ", ".join(map(str, value)) or "none" if isinstance(value, list) else value)
            for name, value in carried_in(checkpoint).items()]  # fmt: skip
    screen.table("carried", ("", ""), [(name.replace("_", " "), value) for name, value in rows])


def _size(num_bytes: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.4g} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:,.1f} GiB"
