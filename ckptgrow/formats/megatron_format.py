"""Megatron-core's distributed checkpoints (`torch_dist`): a directory of torch's with `metadata.json` and `common.pt`.

Every tensor lies under a name of its own, at the top: those of the model, and `optimizer.state.ENTRY.NAME`, of which
`fp32_param` are float32 masters of weights in half precision. The masters are the weights here, and the halves are
made of them again. `common.pt` has the groups without their parameters (Megatron puts vectors into the one without
decay), one step for all of them, the iteration, and what the training script adds: arguments and its own clock. Of a
layer's extra state (`_extra_state/shard_I_OF_N`) there is one object a layer.

Source: NVIDIA, Megatron-core 0.16.1, `dist_checkpointing/` and `optimizer/optimizer.py`.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ckptgrow.distributed import processes
from ckptgrow.errors import CheckpointError, RequestError, at, listing
from ckptgrow.formats.checked_parts import checked_step
from ckptgrow.formats.checkpoint import Checkpoint, Order, RunPosition
from ckptgrow.formats.growth_log import GrowthHistory, growth_log
from ckptgrow.formats.megatron_optimizers import (
    COMMON,
    MASTER,
    STACKED,
    STATE,
    groups_in,
    optimizer_of,
    records_in,
    said_of,
)
from ckptgrow.formats.sidecar_files import others_in
from ckptgrow.progress import Advance
from ckptgrow.storage.archives import archive, archive_writing
from ckptgrow.storage.files.json_files import read_json
from ckptgrow.storage.tensors import LazyTensor, cast, is_lazy, num_elements
from ckptgrow.storage.tree import Keys, Tree, node_at, with_node

METADATA, BACKEND, TRACKER = ".metadata", "metadata.json", "latest_checkpointed_iteration.txt"
MEGATRON = "megatron"
ARGUMENTS, ITERATION, GROWTH = "args", "iteration", "ckptgrow"
GROUPED, QUERY_GROUPS, HEADS = "group_query_attention", "num_query_groups", "num_attention_heads"
EXTRA = re.compile(r"(?P<name>.*\._extra_state)/shard_(?P<layer>\d+)_(?P<count>\d+)")


@dataclass(frozen=True, kw_only=True)
class MegatronLayout:
    """What a writer needs to know besides: the dtypes of weights that are copies of masters, the extra states by name
    and layer, the names of other objects, where the optimizer's groups lie (None where there is no optimizer), and
    whether each group has the step. `arguments` are Megatron-LM's as they were.
    """

    halves: Mapping[str, torch.dtype] = field(default_factory=dict[str, torch.dtype])
    extra: Mapping[str, tuple[Tree, ...]] = field(default_factory=dict[str, "tuple[Tree, ...]"])
    objects: tuple[str, ...] = ()
    optimizer: Keys | None = None
    has_group_steps: bool = False
    arguments: Tree = None
    order: Order = "file"


@dataclass(frozen=True)
class MegatronFormat:
    """Megatron-core's directories as a format."""

    kind: str = MEGATRON

    def recognises(self, path: Path) -> bool:
        """Whether `path` is a directory of one iteration, or one of several iterations."""
        is_run = (path / TRACKER).is_file() and not any(path.glob("iter_*/mp_rank_*"))  # those are of the legacy kind
        return is_run or ((path / COMMON).is_file() and (path / METADATA).is_file())

    def read(self, path: Path) -> Checkpoint:
        """Reads a directory; raises CheckpointError where it is damaged or its optimizer's groups are not told."""
        from ckptgrow.storage.dcp_io import dcp_reading  # torch's part of it takes a second to import

        _check_is_one(path)
        tree, common = dcp_reading.read(path / METADATA), _common_in(path)
        entries = {name: one for name, one in tree.items() if name.startswith(STATE) and is_lazy(one)}
        stored = {name: one for name, one in tree.items() if is_lazy(one) and name not in entries}
        records = records_in(entries, stored, path)
        masters = {name: record.pop(MASTER) for name, record in records.items() if MASTER in record}
        extra, others = _extra_states({name: one for name, one in tree.items() if not is_lazy(one)})
        place = groups_in(common, path) if records else None
        with at(path):
            optimizer, has_steps = optimizer_of(records, node_at(common, place), stored) if place else (None, False)
            log = growth_log(common.get(GROWTH) or {})
            position = RunPosition(checked_step(common.get(ITERATION)))
        data = {file.name for file in path.glob("*.distcp")}
        return Checkpoint(
            path=path,
            kind=self.kind,
            tensors={**stored, **masters},
            config=log.get("config"),
            optimizers=() if optimizer is None else (optimizer,),
            position=position,
            growth=GrowthHistory(log),
            rest=_rest(common, others, place),
            carried=others_in(path, {METADATA, COMMON, *data}),
            layout=MegatronLayout(
                halves={name: stored[name].dtype for name in masters},
                extra=extra,
                objects=tuple(others),
                optimizer=place,
                has_group_steps=has_steps,
                arguments=common.get(ARGUMENTS),
            ),
        )

    def write(self, checkpoint: Checkpoint, path: Path, advance: Advance) -> None:
        """Writes a directory that Megatron's `dist_checkpointing.load` takes; processes of torchrun share it.

        Raises RequestError where the groups have become others, or an extra state cannot follow new layers.
        """
        from ckptgrow.storage.dcp_io import dcp_writing

        layout = checkpoint.layout if isinstance(checkpoint.layout, MegatronLayout) else MegatronLayout()
        tensors, common = _tensors(checkpoint, layout), _common(checkpoint, layout)
        others = {name: checkpoint.rest[name] for name in layout.objects if name in checkpoint.rest}
        together = processes()
        parts: dict[str, Tree] = {**tensors, **_extra_of(checkpoint, layout), **others}
        dcp_writing.write(parts, path, together, advance)
        if checkpoint.growth.source is not None:
            checkpoint.growth.source.share(together)
        if together.rank == 0:
            checkpoint.carried.copy_to(path)
            archive_writing.write(common, path / COMMON, advance, checkpoint.growth.source)


def _rest(common: Mapping[str, Tree], others: Mapping[str, Tree], place: Keys | None) -> dict[str, Any]:
    """What is carried: other objects, and of `common.pt` all but the optimizer's groups and the log of growths."""
    rest: dict[str, Any] = {key: one for key, one in common.items() if key != GROWTH} | dict(others)
    if place is not None:
        rest = with_node(rest, place, None)
    if isinstance(rest.get(ARGUMENTS), Namespace):
        rest[ARGUMENTS] = _with_groups_of_heads(rest[ARGUMENTS])
    return rest


def num_bytes_of_halves(checkpoint: Checkpoint) -> int:
    """The bytes of the weights in half precision that are written beside their masters."""
    layout = checkpoint.layout
    if not isinstance(layout, MegatronLayout):
        return 0
    halves = ((checkpoint.tensors.get(name), dtype) for name, dtype in layout.halves.items())
    return sum(num_elements(tensor) * dtype.itemsize for tensor, dtype in halves if tensor is not None)


def _common_in(path: Path) -> Mapping[str, Tree]:
    common = archive.read(path / COMMON)
    if not isinstance(common, dict):
        raise CheckpointError(f"{path / COMMON}: is a {type(common).__name__}, expected a dict")
    return common


def _check_is_one(path: Path) -> None:
    """Raises CheckpointError for a directory of several iterations, and for another backend than torch_dist."""
    if not (path / METADATA).is_file():
        inside = sorted(one.name for one in path.iterdir() if one.is_dir() and (one / METADATA).is_file())
        raise CheckpointError(
            f"{path}: holds {listing(inside) if inside else 'no iteration of torch_dist'}, expected one iteration of "
            "Megatron's torch_dist; name its directory, as iter_0000100"
        )
    backend = read_json(path / BACKEND).get("sharded_backend") if (path / BACKEND).is_file() else "torch_dist"
    if backend != "torch_dist":
        raise CheckpointError(f"{path}: its sharded_backend is {backend!r}, expected torch_dist; save it again so")


def _extra_states(objects: Mapping[str, Tree]) -> tuple[dict[str, tuple[Tree, ...]], dict[str, Tree]]:
    """Extra states by name, layer after layer, and other objects."""
    found: dict[str, dict[int, Tree]] = {}
    others: dict[str, Tree] = {}
    for name, value in objects.items():
        match = EXTRA.fullmatch(name)
        if match is None:
            others[name] = value
        else:
            found.setdefault(match["name"], {})[int(match["layer"])] = value
    return {name: tuple(layers[at] for at in sorted(layers)) for name, layers in found.items()}, others


def _extra_of(checkpoint: Checkpoint, layout: MegatronLayout) -> dict[str, Tree]:
    """The extra states of as many layers as there are now."""
    depths = {tensor.shape[0] for name, tensor in checkpoint.tensors.items() if name.startswith(STACKED)}
    made: dict[str, Tree] = {}
    for name, values in layout.extra.items():
        depth = max(depths) if name.startswith(STACKED) else len(values)
        if depth != len(values) and any(value != values[0] for value in values):
            raise RequestError(f"{checkpoint.path}: {name} differs from layer to layer, expected none to say anything")
        layers = values if depth == len(values) else values[:1] * depth
        made |= {f"{name}/shard_{at}_{depth}": value for at, value in enumerate(layers)}
    return made


def _tensors(checkpoint: Checkpoint, layout: MegatronLayout) -> dict[str, LazyTensor]:
    """The weights and the optimizer's entries under Megatron's names."""
    made: dict[str, LazyTensor] = {}
    for name, tensor in checkpoint.tensors.items():
        half = layout.halves.get(name)
        made[name] = tensor if half is None else cast(tensor, half)
    for raw in checkpoint.optimizers:
        for name, record in raw.records.items():
            if name in layout.halves:
                made[f"{STATE}{MASTER}.{name}"] = checkpoint.tensors[str(name)]
            made |= {f"{STATE}{key}.{name}": one for key, one in record.items() if is_lazy(one) and one.shape}
    return made


def _common(checkpoint: Checkpoint, layout: MegatronLayout) -> dict[str, Any]:
    """What `common.pt` holds."""
    common: dict[str, Any] = {key: one for key, one in checkpoint.rest.items() if key not in layout.objects}
    if checkpoint.position.global_step is not None:
        common[ITERATION] = checkpoint.position.global_step
    if isinstance(layout.arguments, Namespace) and isinstance(common.get(ARGUMENTS), dict):
        common[ARGUMENTS] = _as_arguments(common[ARGUMENTS], layout.arguments)
    if checkpoint.optimizers and layout.optimizer is not None:
        common = with_node(common, layout.optimizer, said_of(checkpoint, has_group_steps=layout.has_group_steps))
    elif layout.optimizer is not None:
        common.pop("optimizer", None)
    log = checkpoint.growth.to_json()
    if log or layout.arguments is None:
        told = dict(checkpoint.config) if checkpoint.config is not None else None
        common[GROWTH] = {**log, **({} if told is None else {"config": told})}
    if not common.get(GROWTH, True):
        del common[GROWTH]
    return common


def _with_groups_of_heads(arguments: Namespace) -> dict[str, Any]:
    """Megatron-LM's arguments; without grouping their number of groups says nothing, and each head is a group."""
    said = dict(vars(arguments))
    return {**said, QUERY_GROUPS: said[HEADS]} if said.get(GROUPED) is False and HEADS in said else said


def _as_arguments(said: Mapping[str, Any], old: Namespace) -> Namespace:
    """The reverse, in the order of the old ones."""
    before = vars(old)
    kept = {QUERY_GROUPS: before[QUERY_GROUPS]} if before.get(GROUPED) is False and QUERY_GROUPS in before else {}
    now = {**said, **kept}
    return Namespace(**{key: now[key] for key in before if key in now})
