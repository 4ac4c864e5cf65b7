"""The parts of a training state beside its tensors, as files of any kind must hold them."""

from __future__ import annotations

from typing import Any, cast

from ckptgrow.errors import CheckpointError


def checked_optimizers(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    """Optimizers as torch writes them; raises CheckpointError for anything else."""
    for index, one in enumerate(_listed(value, f"{where}: optimizer states")):
        groups: Any = cast(dict[str, Any], one).get("param_groups") if isinstance(one, dict) else None
        if not isinstance(groups, list) or not all(_is_group(group) for group in cast(list[Any], groups)):
            raise CheckpointError(f"{where}: optimizer {index} has no param_groups with params, expected torch's state")
        state: Any = cast(dict[str, Any], one).get("state")
        if not isinstance(state, dict) or not all(map(_is_record, cast(dict[Any, Any], state).values())):
            raise CheckpointError(f"{where}: optimizer {index} has no state of records, expected torch's state")
    return tuple(value or ())


def checked_schedulers(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    """Schedulers as torch writes them; raises CheckpointError for anything else."""
    found = _listed(value, f"{where}: schedulers")
    if not all(isinstance(one, dict) for one in found):
        raise CheckpointError(f"{where}: has a scheduler that is no dict, expected torch's state")
    return tuple(found)


def checked_step(value: Any, where: str) -> int | None:
    """A count of steps; raises CheckpointError for anything else."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise CheckpointError(f"{where}: global_step is {str(value)[:40]!r}, expected a count of steps")
    return value


def _listed(value: Any, what: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise CheckpointError(f"{what} are a {type(value).__name__}, expected a list")
    return list(cast(list[Any], value))


def _is_record(record: Any) -> bool:
    return isinstance(record, dict) and all(isinstance(key, str) for key in cast(dict[Any, Any], record))


def _is_group(group: Any) -> bool:
    return _is_record(group) and isinstance(group.get("params"), list)
