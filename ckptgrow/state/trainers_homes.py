"""A checkpoint that is a trainer's in names and forms, with each part where that trainer looks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ckptgrow.dialects.dialect import Dialect, Home
from ckptgrow.formats.carried_files import Carried
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.dcp import Keys as DistributedKeys
from ckptgrow.formats.megatron_start import as_megatrons
from ckptgrow.formats.places import Places
from ckptgrow.storage.tensors import InMemory
from ckptgrow.storage.tree import map_leaves, with_node

Config = Mapping[str, Any]


def at_home(checkpoint: Checkpoint, dialect: Dialect, home: Home, config: Config | None) -> Checkpoint:
    """A checkpoint with its parts where the trainer looks for them."""
    step = checkpoint.position.global_step
    new = replace(checkpoint, kind=home.kind, carried=Carried(), scaler=None)
    if home.kind == "megatron":
        return as_megatrons(new, home.others, config or {})
    rest: Any = {**home.others}
    if config is not None and dialect.config is not None:
        (first, *inside) = dialect.config.at
        if Path(first).suffix:
            document = with_node({}, tuple(inside), dict(config))
            new = replace(new, carried=Carried(files=(first,), changed={first: document}))
        else:
            rest = with_node(rest, dialect.config.at, dict(config))
    if home.kind == "dcp":
        return _distributed(new, home, rest)
    places = Places(
        model=home.model,
        optimizers=(home.optimizer,) if checkpoint.optimizers else (),
        step=home.step if step is not None else None,
    )
    return replace(new, schedulers=(), rest=rest, layout=places)


def _distributed(checkpoint: Checkpoint, home: Home, counters: Any) -> Checkpoint:
    """A distributed checkpoint as the trainer lays it out; `counters` stand beside the model."""
    step = checkpoint.position.global_step
    if home.step and step is not None:
        counters = with_node(counters, home.step, step)
    schedulers = checkpoint.schedulers[:1] if home.step else ()
    clocks = tuple({"last_epoch": one["last_epoch"]} for one in schedulers if "last_epoch" in one)
    keys = DistributedKeys(
        model=next(iter(home.model), None),
        optimizers=home.optimizer if checkpoint.optimizers else (),
        flat=home.optimizer,
        schedulers=("lr_scheduler",) if clocks else (),
        others=tuple(counters),
        folder=home.folder,
    )
    return replace(checkpoint, schedulers=clocks, rest=map_leaves(counters, _is_count, _as_tensor), layout=keys)


def _is_count(value: object) -> bool:
    return isinstance(value, int)


def _as_tensor(value: int) -> InMemory:
    return InMemory(torch.tensor(value))
