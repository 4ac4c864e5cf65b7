"""The parts of a training state beside its tensors and optimizers, as files of any kind must hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ckptgrow.errors import CheckpointError
from ckptgrow.storage.tensors import is_lazy


def checked_schedulers(value: Any) -> tuple[dict[str, Any], ...]:
    """Schedulers as torch writes them; raises CheckpointError for anything else."""
    found = listed(value, "schedulers")
    for scheduler in found:
        if not isinstance(scheduler, dict):
            raise CheckpointError("has a scheduler that is no dict, expected torch's state")
        checked_step(scheduler.get("last_epoch"), "a scheduler's last_epoch", least=-1)
        for key in ("base_lrs", "_last_lr"):
            rates = scheduler.get(key, [])
            if not isinstance(rates, list) or not all(map(is_number, rates)):
                raise CheckpointError(f"a scheduler's {key} is {str(rates)[:40]}, expected learning rates")
    return tuple(found)


def checked_step(value: Any, name: str = "global_step", least: int = 0) -> int | None:
    """A count of steps; raises CheckpointError for anything else."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise CheckpointError(f"{name} is {str(value)[:40]!r}, expected a count of steps")
    return value


def is_number(value: Any) -> bool:
    """Whether a value is a number, or a tensor, which may hold one."""
    return is_lazy(value) or (isinstance(value, int | float) and not isinstance(value, bool))


def listed(value: Any, what: str) -> Sequence[Any]:
    """A list, empty where there is none; raises CheckpointError for anything else."""
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise CheckpointError(f"{what} are a {type(value).__name__}, expected a list")
    return value
