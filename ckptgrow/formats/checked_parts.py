"""The parts of a training state beside its tensors and optimizers, as files of any kind must hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ckptgrow.errors import CheckpointError
from ckptgrow.storage.tensors import is_lazy
from ckptgrow.storage.tree import Tree

Scheduler: TypeAlias = Mapping[str, Any]  # a scheduler's state as torch writes it


def checked_schedulers(value: Tree) -> tuple[Scheduler, ...]:
    """Schedulers as torch writes them; raises CheckpointError for anything else."""
    found: list[Scheduler] = []
    for scheduler in listed(value, "schedulers"):
        if not isinstance(scheduler, dict):
            raise CheckpointError("has a scheduler that is not a dict, expected torch's state")
        checked_step(scheduler.get("last_epoch"), "a scheduler's last_epoch", least=-1)
        for key in ("base_lrs", "_last_lr"):
            rates = scheduler.get(key, [])
            if not isinstance(rates, list) or not all(map(is_number, rates)):
                raise CheckpointError(f"a scheduler's {key} is {str(rates)[:40]}, expected learning rates")
        found.append(scheduler)
    return tuple(found)


def checked_step(value: Tree, name: str = "global_step", least: int = 0) -> int | None:
    """A count of steps; raises CheckpointError for anything else."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise CheckpointError(f"{name} is {str(value)[:40]!r}, expected a count of steps")
    return value


def is_number(value: Tree) -> bool:
    """Whether a value is a number, or a tensor, which may hold one."""
    return is_lazy(value) or (isinstance(value, int | float) and not isinstance(value, bool))


def listed(value: Tree, what: str) -> Sequence[Tree]:
    """A list, empty where there is none; raises CheckpointError for anything else."""
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise CheckpointError(f"{what} are a {type(value).__name__}, expected a list")
    return value
