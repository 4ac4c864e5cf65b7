"""ZeRO's partitions: each process's part of the groups' float32 weights and of their optimizer's entries.

Every group, of stage 3 every sub-group, is one flat parameter of the process's own optimizer, so that all its
parameters have one step. What is written is padded with zeros.

Source: DeepSpeed 0.19.8, `runtime/zero/stage_1_and_2.py` and `stage3.py` (`state_dict`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from ckptgrow.errors import CheckpointError, OptimizerError, listing
from ckptgrow.formats.deepspeed.partitions import Part, Sizes, by_turns, cut_as_one, cut_each, in_order, sub_groups
from ckptgrow.formats.raw_optimizers import RawGroup, RawOptimizer, Record, raw_optimizer
from ckptgrow.storage.pickles.opaque import Opaque
from ckptgrow.storage.runs import Span, of_runs
from ckptgrow.storage.tensors import LazyTensor, is_lazy, num_elements, whole

Shape = tuple[int, ...]
OPTIMIZER = "optimizer_state_dict"  # of the file, and in it again at stage 3
BASE, MASTERS, FLATS = "base_optimizer_state", "single_partition_of_fp32_groups", "fp32_flat_groups"
MAPPINGS, PADDINGS, ALIGNMENTS = "param_slice_mappings", "group_paddings", "param_alignment_paddings"
COUNTS = "partition_count"
WEIGHTS_STAGE = 3  # from which on a process has a piece of every weight, and no process all of one
Rank = Mapping[str, Any]  # what a process's file holds


@dataclass(frozen=True, kw_only=True)
class Zero:
    """How the partitions were cut: the stage, how many processes there are, how large sub-groups are (stage 3), and
    whether tensors are dealt by turns (`round_robin_gradients`). `address` is an example of DeepSpeed's objects that
    tell where a tensor lies.
    """

    stage: int
    count: int
    sub_group_size: int
    is_by_turns: bool
    address: Opaque | None = None

    @property
    def cuts_each(self) -> bool:
        """Whether every tensor is cut by itself."""
        return self.stage >= WEIGHTS_STAGE

    def cut(self, sizes: Sizes) -> list[Part]:
        """Each process's part of a flat parameter, whose tensors are in the order of the file."""
        return cut_each(sizes, self.count) if self.cuts_each else cut_as_one(sizes, self.count)

    def flats(self, groups: Sequence[Sizes]) -> list[tuple[int, Sizes]]:
        """Every flat parameter of some groups in the module's order: its group's number, and its tensors."""
        if self.cuts_each:
            subs = [sub_groups(sizes, self.count, self.sub_group_size) for sizes in groups]
            return [(number, sizes) for number, group in enumerate(subs) for sizes in group]
        return [(number, self._dealt(sizes)) for number, sizes in enumerate(groups)]

    def _dealt(self, sizes: Sizes) -> Sizes:
        names = by_turns(list(sizes), self.count) if self.is_by_turns else list(sizes)
        return {name: sizes[name] for name in names}

    def in_module(self, names: Sequence[str]) -> list[str]:
        """A group's names in the module's order, from that of the file."""
        return in_order(names, self.count) if self.is_by_turns else list(names)


@dataclass(frozen=True)
class Joined:
    """Partitions as one: the float32 weights by name, and the optimizer."""

    masters: Mapping[str, LazyTensor]
    optimizer: RawOptimizer


def how_cut(rank: Rank, settings: Mapping[str, Any], count: int) -> Zero:
    """How partitions are cut, from a process's file and DeepSpeed's settings.

    Raises CheckpointError for ways of cutting that are not known.
    """
    state = rank[OPTIMIZER]
    zero: Mapping[str, Any] = settings.get("zero_optimization") or {}
    if any(any(one) for one in state.get(ALIGNMENTS) or ()):
        raise CheckpointError("its tensors are aligned one by one, expected zero_optimization.parameter_alignment off")
    mappings: Sequence[Mapping[str, Any]] = state.get(MAPPINGS) or ()
    return Zero(
        stage=WEIGHTS_STAGE if FLATS in state else 2,
        count=count,
        sub_group_size=int(zero.get("sub_group_size", 10**9)),
        is_by_turns=bool(zero.get("round_robin_gradients")) and FLATS not in state,
        address=next((one for mapping in mappings for one in mapping.values()), None),
    )


def joined(ranks: Sequence[Rank], shapes: Sequence[Mapping[str, Shape]], zero: Zero) -> Joined:
    """The whole of the partitions in all processes' files; `shapes` are those of each flat parameter's tensors.

    Raises CheckpointError where they do not fit together.
    """
    states = [raw_optimizer(rank[OPTIMIZER][OPTIMIZER if zero.cuts_each else BASE]) for rank in ranks]
    weights = [rank[OPTIMIZER][FLATS if zero.cuts_each else MASTERS] for rank in ranks]
    if any(sorted(map(str, state.keys)) != sorted(map(str, range(len(shapes)))) for state in states):
        raise CheckpointError(f"its optimizers have not the {len(shapes)} flat parameters that param_shapes tells")
    masters: dict[str, LazyTensor] = {}
    records: dict[Any, dict[str, Any]] = {}
    for index, own in enumerate(shapes):
        parts = zero.cut({name: prod(shape) for name, shape in own.items()})
        masters |= _tensors([one[index] for one in weights], parts, own)
        entries = [state.records.get(index, {}) for state in states]
        for key, value in entries[0].items():
            is_flat = is_lazy(value) and bool(value.shape)
            values: Mapping[str, Any] = (
                _tensors([one[key] for one in entries], parts, own) if is_flat else dict.fromkeys(own, value)
            )
            for name, one in values.items():
                records.setdefault(name, {})[key] = one
    return Joined(masters, grouped(states[0], shapes, zero, records))


def grouped(
    raw: RawOptimizer, shapes: Sequence[Mapping[str, Shape]], zero: Zero, records: Mapping[Any, Record]
) -> RawOptimizer:
    """An optimizer of flat parameters as one of the parameters that these hold, by name."""
    groups: list[RawGroup] = []
    for group in raw.groups:
        names = tuple(zero.in_module([name for key in group.keys for name in shapes[int(key)]]))
        groups.append(RawGroup(group.options, names, names))
    return RawOptimizer(tuple(groups), records, raw.other, kept_as="flat")


def _tensors(flats: Sequence[Any], parts: Sequence[Part], shapes: Mapping[str, Shape]) -> dict[str, LazyTensor]:
    """The tensors of a flat parameter, of which each process has a part."""
    runs: dict[str, list[Span]] = {}
    for flat, part in zip(flats, parts, strict=True):
        if not is_lazy(flat) or num_elements(flat) not in (_length(part), _length(part, padded=False)):
            raise CheckpointError(f"a partition is no tensor of {_length(part)} elements, expected one of its group's")
        offset = 0
        for piece in part:
            if piece.name is not None:
                runs.setdefault(piece.name, []).append(Span(flat, offset, piece.length))
            offset += piece.length
    return {name: of_runs(own, shapes[name], flats[0].dtype) for name, own in runs.items()}


def _length(part: Part, *, padded: bool = True) -> int:
    return sum(piece.length for piece in part if padded or piece.name is not None)


def without_partitions(rank: Rank) -> dict[str, Any]:
    """What a process's file holds besides."""
    derived = {OPTIMIZER, BASE, MASTERS, FLATS, MAPPINGS, PADDINGS, ALIGNMENTS, COUNTS}
    others = {key: value for key, value in rank[OPTIMIZER].items() if key not in derived}
    return {**rank, OPTIMIZER: others}


def parted(state: Joined, zero: Zero, others: Sequence[Rank]) -> list[dict[str, Any]]:
    """The reverse of `joined`: each process's file, with what it holds besides (`others`).

    Raises OptimizerError where parameters of one flat parameter have different numbers, which it has no place for.
    """
    flats = zero.flats(sizes_of(state))
    columns = [_columns(state.optimizer, list(sizes)) for _, sizes in flats]
    parts = [zero.cut(sizes) for _, sizes in flats]
    param_groups = [
        {**group.options, "params": [index for index, (of, _) in enumerate(flats) if of == number]}
        for number, group in enumerate(state.optimizer.groups)
    ]
    made: list[dict[str, Any]] = []
    for rank, other in enumerate(others):
        own = [one[rank] for one in parts]
        records = {index: _record(part, columns[index]) for index, part in enumerate(own) if columns[index]}
        optimizer = {**state.optimizer.other, "state": records, "param_groups": param_groups}
        place = OPTIMIZER if zero.cuts_each else BASE
        made.append({**other, OPTIMIZER: {**other[OPTIMIZER], **_fields(zero, state, own, rank), place: optimizer}})
    return made


def sizes_of(state: Joined) -> list[Sizes]:
    """The elements of each group's tensors."""
    groups = [group.names or () for group in state.optimizer.groups]
    return [{name: num_elements(state.masters[name]) for name in names} for names in groups]


def _columns(raw: RawOptimizer, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The entries of a flat parameter's records, each by parameter."""
    lacking = [name for name in names if name not in raw.records]
    if len(lacking) == len(names):
        return {}
    keys = {key: None for name in names for key in raw.records.get(name, ())}
    uneven = [name for name in names if set(raw.records.get(name, ())) != set(keys)]
    if uneven:
        raise OptimizerError(f"{listing(uneven)} lacks entries that others of its group have, expected the same of all")
    columns = {key: {name: raw.records[name][key] for name in names} for key in keys}
    for key, column in columns.items():
        _check_number(key, column)
    return columns


def _check_number(key: str, column: Mapping[str, Any]) -> None:
    """Raises OptimizerError where an entry that is a number is not the same of all parameters."""
    numbers = {name: value for name, value in column.items() if not (is_lazy(value) and value.shape)}
    distinct = {float(whole(value)) if is_lazy(value) else value for value in numbers.values()}
    if numbers and (len(distinct) > 1 or len(numbers) < len(column)):
        raise OptimizerError(f"{key} differs between parameters of one group, expected one: DeepSpeed keeps no others")


def _record(part: Part, columns: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A process's record of a flat parameter."""
    record: dict[str, Any] = {}
    for key, column in columns.items():
        value = next(iter(column.values()))
        record[key] = _flat(part, column, value.dtype) if is_lazy(value) and value.shape else value
    return record


def _flat(part: Part, tensors: Mapping[str, LazyTensor], dtype: torch.dtype) -> LazyTensor:
    runs = [Span(tensors[piece.name] if piece.name is not None else None, piece.start, piece.length) for piece in part]
    return of_runs(runs, (_length(part),), dtype)


def _fields(zero: Zero, state: Joined, own: Sequence[Part], rank: int) -> dict[str, Any]:
    """A process's part of the weights, and what stages 1 and 2 say of where its tensors lie.

    DeepSpeed tells the places in the module's order, even where tensors are dealt by turns.
    """
    dtype = next(iter(state.masters.values())).dtype
    if zero.cuts_each:
        return {FLATS: [_flat(part, state.masters, dtype) for part in own], COUNTS: zero.count}
    bare = [tuple(piece for piece in part if piece.name is not None) for part in own]
    sizes = sizes_of(state)
    fields: dict[str, Any] = {
        MASTERS: [_flat(part, state.masters, dtype) for part in bare],
        PADDINGS: [_length(part) - _length(part, padded=False) for part in own],
        ALIGNMENTS: [[0] * len(names) for names in sizes],
        COUNTS: [zero.count] * len(sizes),
    }
    if zero.address is not None:
        fields[MAPPINGS] = [_mapping(zero.address, cut_as_one(one, zero.count)[rank]) for one in sizes]
    return fields


def _mapping(address: Opaque, part: Part) -> OrderedDict[str, Opaque]:
    found: OrderedDict[str, Opaque] = OrderedDict()
    start = 0
    for piece in part:
        if piece.name is not None:
            found[piece.name] = address.with_state({"numel": piece.length, "start": start})
        start += piece.length
    return found
