"""What goes along as it is: it must hold nothing that would have had to grow."""

from __future__ import annotations

from collections.abc import Sequence

from ckptgrow.checkpoints.tensors import num_elements
from ckptgrow.checkpoints.tree import dicts_in, path_text, tensors_in
from ckptgrow.errors import CheckpointError, RequestError, listing
from ckptgrow.families.state import TrainingState
from ckptgrow.growth.parameters import Descent


def check_carried(old: TrainingState, lineage: Sequence[Descent]) -> list[str]:
    """What is carried along must hold nothing that would have had to grow; returns the files that could, unseen.

    Raises CheckpointError that names what does.
    """
    growing = [
        old.checkpoint.tensors[one.old.name]
        for one in lineage
        if one.old.layer is not None or not one.growth.is_identity
    ]
    shapes = {tensor.shape for tensor in growing if len(tensor.shape) > 0}
    smallest_matrix = min((num_elements(tensor) for tensor in growing if len(tensor.shape) > 1), default=0)
    suspects = {
        path_text(keys)
        for keys, tensor in tensors_in({**old.checkpoint.rest, **old.checkpoint.carried.held})
        if tensor.dtype.is_floating_point
        and tensor.shape
        and (tensor.shape in shapes or num_elements(tensor) >= smallest_matrix)
    }
    if suspects:
        raise CheckpointError(
            f"{old.checkpoint.path}: {listing(suspects)} holds tensors as large as parameters and no rule says how "
            f"they grow; leave them out with --drop {listing({text.partition('[')[0] for text in suspects})}"
        )
    carried, itemsize = old.checkpoint.carried, min((tensor.dtype.itemsize for tensor in growing), default=1)
    least = smallest_matrix * itemsize
    return [name for name in carried.closed if 0 < least <= (carried.directory / name).stat().st_size]


def check_schedules(old: TrainingState) -> None:
    """Schedules in places that no rule knows would go on with the old learning rates.

    Raises RequestError that names them.
    """
    found = [
        path_text(keys)
        for keys, one in dicts_in({**old.checkpoint.rest, **old.checkpoint.carried.held})
        if {"last_epoch", "base_lrs"} <= one.keys()
    ]
    if found:
        raise RequestError(
            f"{old.checkpoint.path}: {listing(found)} is a schedule where no rule knows of one, so its rates would "
            f"stay; use --lr-rule keep and --step keep, or --drop {listing({text.partition('[')[0] for text in found})}"
        )
