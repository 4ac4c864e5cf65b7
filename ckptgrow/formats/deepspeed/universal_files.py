"""Universal checkpoints: a directory for each parameter, with a file for its float32 weight and for each entry of its
record, and one file of the optimizer's groups, which is what the first process had.

Source: DeepSpeed 0.19.8, `checkpoint/ds_to_universal.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from ckptgrow.errors import CheckpointError, listing
from ckptgrow.formats.deepspeed.zero_files import (
    BASE,
    MAPPINGS,
    MASTERS,
    OPTIMIZER,
    Joined,
    Rank,
    Shape,
    Zero,
    grouped,
    parted,
)
from ckptgrow.formats.raw_optimizers import raw_optimizer
from ckptgrow.storage.archives import archive
from ckptgrow.storage.runs import Span, of_runs
from ckptgrow.storage.tensors import LazyTensor, is_lazy, num_elements
from ckptgrow.storage.tree import Tree

ZERO, STATE, GROUPS = "zero", "optimizer_state.pt", "param_groups"
WEIGHT, STEP, ENDING = "fp32", "step", ".pt"
TENSOR, AXIS = "param", "cat_dim"  # of a file of stages 1 and 2; of stage 3 it is the tensor alone, flat


def read_universal(folder: Path, tree: Mapping[str, Any], shapes: Sequence[Mapping[str, Shape]], zero: Zero) -> Joined:
    """The state of a universal checkpoint, `tree` that of its first file; `shapes` are those of each flat parameter's
    tensors. Raises CheckpointError where a file is missing or has another form.
    """
    steps = tree[OPTIMIZER]["state"] if zero.cuts_each else {}
    masters: dict[str, LazyTensor] = {}
    records: dict[Any, dict[str, Any]] = {}
    for index, own in enumerate(shapes):
        for name, shape in own.items():
            entries = {key: _entry(file, shape) for key, file in _entries(folder / ZERO / name).items()}
            master = entries.pop(WEIGHT, None)
            if not is_lazy(master):
                raise CheckpointError(f"{folder / ZERO / name}: has no {WEIGHT}{ENDING}, expected a parameter's weight")
            masters[name] = master
            step = {STEP: steps[index][STEP]} if STEP in steps.get(index, {}) else {}
            records[name] = {**step, **entries}
    raw = raw_optimizer({"state": {}, GROUPS: tree[GROUPS]})
    return Joined(masters, grouped(raw, shapes, zero, records))


def _entries(folder: Path) -> dict[str, Path]:
    return {file.stem: file for file in sorted(folder.glob(f"*{ENDING}"))}


def _entry(file: Path, shape: Shape) -> Any:
    value: Any = archive.read(file)
    if isinstance(value, dict):
        if set(value) != {TENSOR, AXIS}:
            raise CheckpointError(f"{file}: holds more than {TENSOR} and {AXIS}, expected no tensor parallelism")
        value = value[TENSOR]
    if not is_lazy(value) or file.stem == STEP:
        return value
    if num_elements(value) != prod(shape):
        raise CheckpointError(f"{file}: has shape {list(value.shape)}, expected its parameter's {list(shape)}")
    return value if value.shape == shape else of_runs([Span(value, 0, prod(shape))], shape, value.dtype)


def twins_in(folder: Path, names: Collection[str], shared: Mapping[str, str]) -> tuple[str, ...]:
    """The directories of tied parameters under their further names, which hold the weight again.

    Raises CheckpointError for those of unknown ones.
    """
    others = tuple(sorted(one.name for one in (folder / ZERO).iterdir() if one.is_dir() and one.name not in names))
    strange = [name for name in others if name not in shared or sorted(_entries(folder / ZERO / name)) != [WEIGHT]]
    if strange:
        raise CheckpointError(f"{folder / ZERO}: {listing(strange)} is in no group, expected a parameter of one")
    return others


def universal_trees(
    state: Joined, zero: Zero, other: Rank, twins: Mapping[str, LazyTensor]
) -> Iterator[tuple[str, Tree]]:
    """What is in each file of a universal checkpoint's folder, by its name there."""
    (first,) = parted(state, zero, [other])
    left_out = () if zero.cuts_each else (BASE, MAPPINGS, MASTERS)
    groups = first[OPTIMIZER][OPTIMIZER if zero.cuts_each else BASE][GROUPS]
    kept = {key: value for key, value in first[OPTIMIZER].items() if key not in left_out}
    yield f"{ZERO}/{STATE}", {**kept, GROUPS: groups}
    for name, master in state.masters.items():
        record = state.optimizer.records.get(name, {})
        for key, value in {WEIGHT: master, **record}.items():
            if key == STEP and zero.cuts_each:
                continue  # it stands among the optimizer's groups
            yield f"{ZERO}/{name}/{key}{ENDING}", _written(value, zero) if key != STEP else value
    for name, tensor in twins.items():
        yield f"{ZERO}/{name}/{WEIGHT}{ENDING}", {TENSOR: tensor}


def _written(value: Any, zero: Zero) -> Tree:
    if not is_lazy(value):
        return value
    if zero.cuts_each:
        return of_runs([Span(value, 0, num_elements(value))], (num_elements(value),), value.dtype)
    return {AXIS: 0, TENSOR: value}
