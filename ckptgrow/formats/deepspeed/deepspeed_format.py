"""DeepSpeed's checkpoints: those of the Trainer and of accelerate under ZeRO, Lightning's, and DeepSpeed's own.

    checkpoint-5/latest                                                 names the folder of the state
    checkpoint-5/global_step5/mp_rank_00_model_states.pt                the module; of stage 3 one file a process
    checkpoint-5/global_step5/zero_pp_rank_0_mp_rank_00_optim_states.pt a process's part of weights and moments
    run.ckpt/checkpoint/…                                               the same, as Lightning has it

The weights are the float32 ones of the partitions where there are such; copies of them in the module and in a
`model.safetensors` beside it are made from these. Each process's file is written again with its part of what grew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ckptgrow.errors import CheckpointError, at
from ckptgrow.formats.checked_parts import checked_schedulers, checked_step
from ckptgrow.formats.checkpoint import Checkpoint, Order
from ckptgrow.formats.deepspeed.callers_part import CallersPart
from ckptgrow.formats.deepspeed.model_files import (
    SCHEDULER,
    SHAPES,
    SHARED,
    TORCH_OPTIMIZER,
    Modules,
    Written,
    pattern_of,
    read_module,
    without_module,
)
from ckptgrow.formats.deepspeed.state_folders import files_in, folders_in, state_folder
from ckptgrow.formats.deepspeed.universal_files import GROUPS, STATE, ZERO, read_universal, twins_in, universal_trees
from ckptgrow.formats.deepspeed.weight_copies import Copies
from ckptgrow.formats.deepspeed.zero_files import (
    OPTIMIZER,
    Joined,
    Zero,
    how_cut,
    joined,
    parted,
    sizes_of,
    without_partitions,
)
from ckptgrow.formats.huggingface import once
from ckptgrow.formats.raw_optimizers import RawGroup, RawOptimizer, raw_optimizer
from ckptgrow.formats.sidecar_files import Files, part_files, read_beside, read_state, write_beside, write_growth
from ckptgrow.progress import Advance
from ckptgrow.storage.archives import archive_writing
from ckptgrow.storage.files.targets import DEFAULT_SHARD_BYTES
from ckptgrow.storage.files.tensor_writing import FileLayout, fill
from ckptgrow.storage.tensors import num_bytes
from ckptgrow.storage.tree import Tree

DEEPSPEED = "deepspeed"
MASTERS_WITHOUT_ZERO = ("fp32_groups", "fp32_groups_flat")


@dataclass(frozen=True, kw_only=True)
class Shards:
    """How a checkpoint's files lie and what is in them: the names of its files in `folder`, how its partitions were cut
    (None without ZeRO), the optimizer's groups as they were, tied parameters with files of their own, and the
    schedulers' files beside.
    """

    folder: str
    models: tuple[str, ...]
    ranks: tuple[str, ...]
    zero: Zero | None
    modules: Modules
    groups: tuple[RawGroup, ...]
    callers: CallersPart
    copies: Copies | None
    twins: tuple[str, ...]
    schedulers: tuple[str, ...]
    order: Order = "file"

    @property
    def is_universal(self) -> bool:
        """Whether every weight and record has a file of its own, and no process one."""
        return self.zero is not None and not self.ranks


@dataclass(frozen=True)
class _Partitions:
    """What is read of them: how they were cut, their whole, and by its file what else each holds; `twins` are tied
    parameters with files of their own.
    """

    zero: Zero
    state: Joined
    others: Mapping[str, Tree]
    twins: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeepSpeedFormat:
    """See the module's head; `max_shard_bytes`: the largest file of weights that is written beside the state."""

    max_shard_bytes: int = DEFAULT_SHARD_BYTES
    kind: str = DEEPSPEED

    def recognises(self, path: Path) -> bool:
        """A directory with a folder of model states, or one itself."""
        return path.is_dir() and bool(folders_in(path))

    def read(self, path: Path) -> Checkpoint:
        """Reads a directory; raises CheckpointError where a file is missing, or is of a kind that is not read."""
        folder = state_folder(path)
        with at(path / folder):
            models, ranks = files_in(path / folder)
            trees = [read_state(path / folder / name) for name in models]
            partitions = _partitions(path / folder, ranks, trees[0])
            tensors, modules = read_module(trees, partitions.state.masters if partitions else {})
            optimizer = partitions.state.optimizer if partitions else _whole_optimizer(trees[0])
            callers = CallersPart.of(trees[0])
            rest = {name: callers.without(without_module(tree)) for name, tree in zip(models, trees, strict=True)}
        copies = Copies.beside(path, tensors)
        schedulers = part_files(path, "scheduler")
        stored = {folder, *(copies.files if copies else ()), *((*models, *ranks, ZERO) if not folder else ())}
        beside = read_beside(path, self.kind, stored, Files(schedulers=schedulers, order="file"))
        layout = Shards(
            folder=folder,
            models=models,
            ranks=ranks,
            zero=partitions.zero if partitions else None,
            modules=modules,
            groups=optimizer.groups if optimizer else (),
            callers=callers,
            copies=copies,
            twins=partitions.twins if partitions else (),
            schedulers=schedulers,
        )
        found = replace(
            beside,
            tensors=tensors,
            optimizers=(optimizer,) if optimizer else (),
            rest={**rest, **(partitions.others if partitions else {})},
            layout=layout,
        )
        with at(path / folder):
            return callers.told(_with_own_clock(found, trees[0]), trees[0])

    def write(self, checkpoint: Checkpoint, path: Path, advance: Advance) -> None:
        """Writes a directory: every process's file, and what lies beside."""
        layout = checkpoint.layout
        if not isinstance(layout, Shards):
            raise CheckpointError(f"{checkpoint.path}: is no checkpoint of DeepSpeed's, expected one, to be written so")
        path.mkdir()
        (path / layout.folder).mkdir(exist_ok=True)
        count = len(layout.schedulers)
        files = Files(schedulers=layout.schedulers, order="file")
        config = None if layout.callers.is_lightnings else checkpoint.config
        own = replace(checkpoint, optimizers=(), schedulers=checkpoint.schedulers[:count], config=config, layout=files)
        parts = write_beside(own, path)
        written = written_module(checkpoint, layout)
        for name, tree in _trees(checkpoint, layout, written, checkpoint.schedulers[count:]):
            parts.append(_outline(checkpoint, tree, path / layout.folder / name))
        if layout.copies is not None:
            parts += layout.copies.outlines(written, path, self.max_shard_bytes)
        fill(parts, advance)
        if not layout.callers.is_lightnings:
            write_growth(checkpoint, path)


def _outline(checkpoint: Checkpoint, tree: Tree, file: Path) -> FileLayout:
    file.parent.mkdir(parents=True, exist_ok=True)
    return archive_writing.outline(tree, file, checkpoint.growth.source)


def _partitions(folder: Path, ranks: Sequence[str], model: Mapping[str, Any]) -> _Partitions | None:
    settings, count = model.get("ds_config") or {}, int(model.get("dp_world_size") or 1)
    shapes: list[Mapping[str, tuple[int, ...]]] = [
        {name: tuple(shape) for name, shape in one.items()} for one in model.get(SHAPES) or ()
    ]
    if ranks:
        if len(ranks) != count:
            raise CheckpointError(f"holds the partitions of {len(ranks)} processes, expected those of {count}")
        trees = [read_state(folder / name) for name in ranks]
        zero = how_cut(trees[0], settings, count)
        others = {name: without_partitions(tree) for name, tree in zip(ranks, trees, strict=True)}
        return _Partitions(zero, joined(trees, shapes, zero), others)
    if (folder / ZERO / STATE).is_file():
        tree = read_state(folder / ZERO / STATE)
        zero = how_cut({OPTIMIZER: tree}, settings, count)
        others = without_partitions({OPTIMIZER: {key: one for key, one in tree.items() if key != GROUPS}})[OPTIMIZER]
        state = read_universal(folder, tree, shapes, zero)
        twins = twins_in(folder, state.masters, model.get(SHARED) or {})
        return _Partitions(zero, state, {f"{ZERO}/{STATE}": others}, twins)
    if shapes:
        raise CheckpointError("its partitions are missing, expected a file of optim_states of every process")
    return None


def _whole_optimizer(model: Mapping[str, Any]) -> RawOptimizer | None:
    """The optimizer of a run without ZeRO."""
    state: Any = model.get(TORCH_OPTIMIZER)
    if state is None:
        return None
    if any(key in state for key in MASTERS_WITHOUT_ZERO):
        raise CheckpointError(
            "its optimizer keeps float32 weights without ZeRO, expected them in ZeRO's partitions; train with "
            "zero_optimization.stage 1 or more, or leave the precision at float32"
        )
    return raw_optimizer(state)


def _with_own_clock(checkpoint: Checkpoint, model: Mapping[str, Any]) -> Checkpoint:
    """With the step and the scheduler that DeepSpeed itself keeps."""
    scheduler: Any = model.get(SCHEDULER)
    own = checked_schedulers([scheduler] if isinstance(scheduler, dict) else [])
    position, step = checkpoint.position, checked_step(model.get("global_steps"), "global_steps")
    return replace(
        checkpoint,
        schedulers=(*checkpoint.schedulers, *own),
        position=replace(position, global_step=step) if position.global_step is None else position,
    )


def written_module(checkpoint: Checkpoint, layout: Shards) -> Written:
    """The module of a checkpoint as its files have it."""
    if layout.zero is None:
        return Written(tensors=checkpoint.tensors, masters=(), modules=layout.modules, flats=(), count=1)
    state = _state(checkpoint, layout)
    flats = [sizes for _, sizes in layout.zero.flats(sizes_of(state))]
    return Written(
        tensors=checkpoint.tensors,
        masters=state.masters,
        modules=layout.modules,
        flats=flats,
        count=layout.zero.count,
    )


def _state(checkpoint: Checkpoint, layout: Shards) -> Joined:
    """What the partitions hold; where the optimizer begins anew, its groups are as they were."""
    raw = checkpoint.optimizers[0] if checkpoint.optimizers else _begun_anew(checkpoint, layout)
    return Joined({name: checkpoint.tensors[name] for group in raw.groups for name in group.names or ()}, raw)


def _begun_anew(checkpoint: Checkpoint, layout: Shards) -> RawOptimizer:
    names = list(once(checkpoint.tensors))
    groups: list[RawGroup] = []
    for old in layout.groups:
        patterns = set(map(pattern_of, old.names or ()))
        own = tuple(name for name in names if pattern_of(name) in patterns)
        groups.append(RawGroup(old.options, own, own))
    return RawOptimizer(tuple(groups), {})


def _trees(
    checkpoint: Checkpoint, layout: Shards, written: Written, schedulers: Sequence[Mapping[str, Any]]
) -> list[tuple[str, Tree]]:
    """What is in each file of the state's folder, by its name there."""
    callers = layout.callers.tree(checkpoint)
    own: dict[str, Any] = {}
    if layout.callers.keeps_scheduler:
        kept = schedulers or (checkpoint.schedulers if layout.callers.is_lightnings else ())
        own[SCHEDULER] = dict(kept[0]) if kept else None
    if layout.zero is None and layout.groups:
        own[TORCH_OPTIMIZER] = checkpoint.optimizers[0].to_torch() if checkpoint.optimizers else None
    others: list[Any] = [checkpoint.rest[name] for name in layout.models]
    trees: list[tuple[str, Tree]] = [
        (name, {**tree, **own, **callers}) for name, tree in zip(layout.models, written.files(others), strict=True)
    ]
    if layout.zero is None:
        return trees
    state = _state(checkpoint, layout)
    if layout.is_universal:
        other: Any = checkpoint.rest[f"{ZERO}/{STATE}"]
        twins = {name: checkpoint.tensors[name] for name in layout.twins}
        return [*trees, *universal_trees(state, layout.zero, {OPTIMIZER: other}, twins)]
    ranks: list[Any] = [checkpoint.rest[name] for name in layout.ranks]
    return [*trees, *zip(layout.ranks, parted(state, layout.zero, ranks), strict=True)]


def num_bytes_of_copies(checkpoint: Checkpoint) -> int:
    """The bytes of further copies of the weights that are written: in every file of model states, and beside them."""
    if not isinstance(checkpoint.layout, Shards):
        return 0
    written = written_module(checkpoint, checkpoint.layout)
    dtypes = [] if written.modules.is_empty or not written.masters else [written.modules.dtype]
    dtypes += [checkpoint.layout.copies.dtype] if checkpoint.layout.copies else []
    return sum(num_bytes(one) for dtype in dtypes for one in once(written.copies(dtype)).values())
