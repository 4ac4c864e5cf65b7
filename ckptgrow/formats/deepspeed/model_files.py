"""DeepSpeed's files of model states: the module in the precision that it computes in, and what it says of partitions.

From stage 3 on the module is empty in them: its weights are in the partitions alone, frozen ones in pieces here.

Source: DeepSpeed 0.19.8, `runtime/engine.py` (`_common_checkpoint_state`, `_get_zero_param_shapes`).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from ckptgrow.errors import CheckpointError, listing
from ckptgrow.formats.deepspeed.partitions import Sizes, cut_each
from ckptgrow.storage.runs import Span, of_runs
from ckptgrow.storage.tensors import InMemory, LazyTensor, Made, is_lazy, num_elements
from ckptgrow.storage.tree import Tree

MODULE, SHAPES, BUFFERS, SHARED = "module", "param_shapes", "buffer_names", "shared_params"
FROZEN_SHAPES, FROZEN_PIECES = "frozen_param_shapes", "frozen_param_fragments"
TORCH_OPTIMIZER, SCHEDULER = "optimizer", "lr_scheduler"
Model = Mapping[str, Any]  # what a file of model states holds


@dataclass(frozen=True, kw_only=True)
class Modules:
    """How the files of model states keep the module: its dtype where the weights are float32 elsewhere, whether it is
    empty, and which tensors are buffers or frozen, by patterns of their names.
    """

    dtype: torch.dtype | None
    is_empty: bool
    buffers: frozenset[str]
    frozen: frozenset[str]


def pattern_of(name: str) -> str:
    """A name without the numbers of layers, which growth changes."""
    return re.sub(r"\d+", "0", name)


def read_module(models: Sequence[Model], masters: Mapping[str, LazyTensor]) -> tuple[dict[str, LazyTensor], Modules]:
    """The module's tensors by name in its order, the float32 weights where there are such; and how they are kept.

    Raises CheckpointError where a tensor is nowhere.
    """
    first = models[0]
    module = first.get(MODULE)
    if not isinstance(module, dict) or not all(map(is_lazy, module.values())):
        raise CheckpointError("its model states hold no module of tensors, expected one that no pipeline cuts")
    same = {id(tensor): name for name, tensor in module.items() if name in masters and num_elements(tensor)}
    alias = {name: same.get(id(tensor), name) for name, tensor in module.items()} | dict(first.get(SHARED) or {})
    frozen: Mapping[str, Any] = first.get(FROZEN_SHAPES) or {}
    pieces = _frozen(models, frozen) if any(_is_lost(module, name) for name in frozen) else {}
    whole = {**module, **pieces, **masters}
    tensors: dict[str, LazyTensor] = {name: whole[alias.get(name, name)] for name in module}
    lost = [name for name in tensors if _is_lost(tensors, name) and 0 not in _shape_in(first, name)]
    strange = sorted(masters.keys() - tensors.keys())
    if lost or strange:
        raise CheckpointError(f"its partitions and its module do not both hold {listing(lost or strange)}")
    copies = {tensor.dtype for name, tensor in module.items() if alias.get(name, name) in masters}
    if len(copies) > 1:
        raise CheckpointError(f"its module is in {listing(map(str, copies))}, expected one precision")
    return tensors, Modules(
        dtype=next(iter(copies), None),
        is_empty=any(_is_lost(module, name) for name in module),
        buffers=frozenset(map(pattern_of, first.get(BUFFERS) or ())),
        frozen=frozenset(map(pattern_of, frozen)),
    )


def _is_lost(tensors: Mapping[str, LazyTensor], name: str) -> bool:
    return num_elements(tensors[name]) == 0


def _shape_in(model: Model, name: str) -> tuple[int, ...]:
    shapes = [*(model.get(SHAPES) or ()), model.get(FROZEN_SHAPES) or {}]
    return next((tuple(one[name]) for one in shapes if name in one), ())


def _frozen(models: Sequence[Model], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, LazyTensor]:
    """Weights that no optimizer has, from every process's piece of them."""
    found: dict[str, LazyTensor] = {}
    for name, shape in shapes.items():
        fragments = [model[FROZEN_PIECES][name] for model in models]
        parts = cut_each({name: prod(shape)}, len(models))
        runs = [Span(one, 0, part[0].length) for one, part in zip(fragments, parts, strict=True) if part[0].name]
        found[name] = of_runs(runs, tuple(shape), fragments[0].dtype)
    return found


def without_module(model: Model) -> dict[str, Any]:
    """What a file of model states holds besides; what it has none of stays so."""
    derived = {MODULE, SHAPES, BUFFERS, FROZEN_SHAPES, FROZEN_PIECES, TORCH_OPTIMIZER, SCHEDULER}
    return {key: value for key, value in model.items() if key not in derived or value is None}


@dataclass(frozen=True, kw_only=True)
class Written:
    """The module as it is written: its tensors, which of them are partitioned, and how."""

    tensors: Mapping[str, LazyTensor]
    masters: Collection[str]
    modules: Modules
    flats: Sequence[Sizes]
    count: int

    def files(self, others: Sequence[Model]) -> list[dict[str, Any]]:
        """Every process's file of model states, with what it holds besides."""
        copies = self.copies(self.modules.dtype)
        empty = InMemory(torch.empty(0, dtype=self.modules.dtype))
        buffers = [name for name in copies if pattern_of(name) in self.modules.buffers]
        module = {
            name: empty if self.modules.is_empty and name not in buffers else tensor for name, tensor in copies.items()
        }
        shapes = [OrderedDict((name, torch.Size(self.tensors[name].shape)) for name in sizes) for sizes in self.flats]
        made: list[dict[str, Any]] = []
        for rank, other in enumerate(others):
            frozen = self._frozen(rank) if FROZEN_SHAPES not in other else {}
            told = {SHAPES: shapes} if SHAPES not in other else {}
            made.append({MODULE: OrderedDict(module), BUFFERS: buffers, **told, **frozen, **other})
        return made

    def copies(self, dtype: torch.dtype | None) -> dict[str, LazyTensor]:
        """The module's tensors, the partitioned ones in another precision; tied ones are one object."""
        ids = {id(self.tensors[name]) for name in self.masters}
        cast = {id(one): _as(one, dtype) if id(one) in ids else one for one in self.tensors.values()}
        return {name: cast[id(tensor)] for name, tensor in self.tensors.items()}

    def _frozen(self, rank: int) -> dict[str, Tree]:
        own = {name: one for name, one in self.tensors.items() if pattern_of(name) in self.modules.frozen}
        pieces = {name: self._piece(name, one, rank) if self.modules.is_empty else one for name, one in own.items()}
        shapes = OrderedDict((name, torch.Size(one.shape)) for name, one in own.items())
        return {FROZEN_SHAPES: shapes, FROZEN_PIECES: OrderedDict(pieces)}

    def _piece(self, name: str, tensor: LazyTensor, rank: int) -> LazyTensor:
        part = cut_each({name: num_elements(tensor)}, self.count)[rank]
        runs = [Span(None if piece.name is None else tensor, piece.start, piece.length) for piece in part]
        return of_runs(runs, (sum(run.length for run in runs),), tensor.dtype)


def _as(tensor: LazyTensor, dtype: torch.dtype | None) -> LazyTensor:
    if dtype is None or tensor.dtype == dtype:
        return tensor
    return Made(tensor.shape, dtype, lambda start, stop: tensor.rows(start, stop).to(dtype))
