"""Parts of a checkpoint that are copied as they are: none of them may hold anything that would have to grow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ckptgrow.errors import CheckpointError, RequestError, listing
from ckptgrow.formats.carried_files import Carried
from ckptgrow.formats.sidecar_files import TRAINER_STATE
from ckptgrow.growth.lineage import Descent
from ckptgrow.state.opening import TrainingState
from ckptgrow.storage.files.json_files import LARGEST_LOG, read_json
from ckptgrow.storage.pickles.numpy_values import ArrayForm
from ckptgrow.storage.tensors import LazyTensor
from ckptgrow.storage.tree import arrays_in, dicts_in, path_text, tensors_in

Shape = tuple[int, ...]
CLOCKS = (
    {"last_epoch", "base_lrs"},
    {"num_steps", "lr_decay_steps"},
)  # torch's schedules, and Megatron-LM's, in samples
BEST = ("best_metric", "best_model_checkpoint", "best_global_step")  # as transformers' TrainerState calls them


def check_carried(old: TrainingState, lineage: Sequence[Descent]) -> list[str]:
    """Makes sure that nothing that is copied as it is would have to grow.

    Returns the names of files that cannot be looked into and are large enough to hold such a thing. Raises
    CheckpointError, which names what would have to grow.
    """
    growing = [
        old.checkpoint.tensors[one.old.name]
        for one in lineage
        if one.old.layer is not None or not one.growth.is_identity
    ]
    copies = _Copies.of(growing)
    held = {**old.checkpoint.rest, **old.checkpoint.carried.contents}
    forms = [(keys, _form(tensor)) for keys, tensor in tensors_in(held)]
    suspects = {path_text(keys) for keys, form in [*forms, *arrays_in(held)] if copies.may_include(form)}
    if suspects:
        raise CheckpointError(
            f"{old.checkpoint.path}: {listing(suspects)} holds tensors as large as parameters and no rule says how "
            f"they grow; leave them out with ⟦drop {listing({text.partition('[')[0] for text in suspects})}⟧"
        )
    carried, itemsize = old.checkpoint.carried, min((tensor.dtype.itemsize for tensor in growing), default=1)
    least = copies.smallest_matrix * itemsize
    return [name for name in carried.unreadable if 0 < least <= (carried.directory / name).stat().st_size]


@dataclass(frozen=True)
class _Copies:
    """What a copy of the growing weights may look like.

    A tensor of floats with a weight's shape, or as large as a matrix; a tensor of integers (8-bit averages) with a
    matrix's shape; or as many bytes as a matrix has entries, or half as many (two entries in each byte).
    """

    shapes: frozenset[Shape]

    @classmethod
    def of(cls, growing: Sequence[LazyTensor]) -> _Copies:
        return cls(frozenset(tensor.shape for tensor in growing if len(tensor.shape) > 0))

    @property
    def matrices(self) -> set[int]:
        """How many entries each matrix has."""
        return {math.prod(shape) for shape in self.shapes if len(shape) > 1}

    @property
    def smallest_matrix(self) -> int:
        return min(self.matrices, default=0)

    def may_include(self, form: ArrayForm) -> bool:
        if not form.shape:
            return False
        is_large = form.num_elements >= self.smallest_matrix
        if form.kind == "f":
            return form.shape in self.shapes or is_large
        if form.kind not in ("i", "u"):
            return False
        sizes = {count for size in self.matrices for count in (size, size // 2)}
        is_bytes = form.itemsize == 1 and form.num_elements in sizes
        return (len(form.shape) > 1 and form.shape in self.shapes) or is_bytes


def _form(tensor: LazyTensor) -> ArrayForm:
    is_float = tensor.dtype.is_floating_point or tensor.dtype.is_complex
    kind = "f" if is_float else "b" if tensor.dtype == torch.bool else "i"
    return ArrayForm(tensor.shape, kind, tensor.dtype.itemsize)


def without_best(carried: Carried) -> tuple[Carried, list[str]]:
    """A Trainer's state without its best checkpoint, and a note for the user where there was one.

    The best checkpoint has the small model's size. A resumed run with `load_best_model_at_end` would load it into the
    grown model.
    """
    if TRAINER_STATE not in carried.files:
        return carried, []
    state = read_json(carried.directory / TRAINER_STATE, LARGEST_LOG)
    told = [key for key in BEST if state.get(key) is not None]
    if not told:
        return carried, []
    cleared = {key: None if key in told else value for key, value in state.items()}
    note = f"{', '.join(told)} of {TRAINER_STATE} are the small run's: cleared, the grown run finds its own"
    return replace(carried, changed={**carried.changed, TRAINER_STATE: cleared}), [note]


def check_schedules(old: TrainingState) -> None:
    """Raises RequestError where schedules lie in places that no rule knows, which names them.

    Such schedules would go on with the old learning rates.
    """
    found = [
        path_text(keys)
        for keys, one in dicts_in({**old.checkpoint.rest, **old.checkpoint.carried.contents})
        if any(signs <= one.keys() for signs in CLOCKS)
    ]
    if found:
        raise RequestError(
            f"{old.checkpoint.path}: {listing(found)} is a schedule where no rule knows of one, so its rates would "
            f"stay; use ⟦lr_rule keep⟧ and ⟦step keep⟧, or ⟦drop {listing({text.partition('[')[0] for text in found})}⟧"
        )
