"""Which entries of a grown model's parameters are new: by the record of its growths, and the family's layouts.

An entry is new where its row or its column is, or all of its layer. New are the coordinates and layers that the last
growth added, and growths right before it, without a step of training between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ckptgrow.errors import RequestError, at
from ckptgrow.families.registry import family_of
from ckptgrow.formats.known_formats import read_checkpoint
from ckptgrow.formats.lightning import GROWTH_KEY
from ckptgrow.spaces.growth import BoolVector
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.claim import claim

Record = Mapping[str, Any]
NEW_COORDINATES = "new_coordinates"
MAPS_LAYERS = "layers"


@dataclass(frozen=True, eq=False)
class NewEntries:
    """The new entries of one parameter: those at a new coordinate of any axis, or all of them.

    `axes` has one vector an axis of the stored tensor, True at new coordinates.
    """

    axes: tuple[BoolVector, ...]
    is_whole: bool = False

    def mask(self, device: torch.device | None = None) -> torch.Tensor:
        """True at every new entry, of the parameter's shape; bool."""
        shape = [len(axis) for axis in self.axes]
        found = torch.full([1] * len(shape), self.is_whole, device=device)
        for number, axis in enumerate(self.axes):
            along = [-1 if number == other else 1 for other in range(len(shape))]
            found = found | torch.from_numpy(axis).to(device).reshape(along)
        return found.expand(shape)


def new_entries(model: torch.nn.Module, checkpoint: Mapping[str, Any] | str | Path) -> dict[str, NewEntries]:
    """The new entries of every parameter that has any, by its name in `model.named_parameters()`.

    `model` is a transformers model of a grown checkpoint's size, under wrappers or not; `checkpoint` what `torch.load`
    returns of the grown Lightning file, or of a run that goes on from it; or the path of a checkpoint of any format.

        entries = new_entries(model, checkpoint)
        entries["model.layers.0.mlp.up_proj.weight"].mask()

    Raises RequestError where no growth is recorded, or one without which coordinates it added; a CkptgrowError where
    the model does not fit.
    """
    if isinstance(checkpoint, str | Path):
        return new_in(model, read_checkpoint(Path(checkpoint)).history)
    return new_in(model, checkpoint.get(GROWTH_KEY, checkpoint).get("history", ()))


def new_in(model: torch.nn.Module, history: Sequence[Record]) -> dict[str, NewEntries]:
    """The same by the records of the growths."""
    last = _last_growths(history)
    architecture = _architecture(model)
    layers = _new_layers(last)
    with at("the grown model"):
        marks = _new_coordinates(last, architecture.sizes)
        claimed = claim(
            architecture, {name: tuple(one.shape) for name, one in model.named_parameters(remove_duplicate=False)}
        )
    found: dict[str, NewEntries] = {}
    for one in claimed.parameters:
        axes = tuple(axis.marked(marks) for axis in one.layout.axes)
        is_whole = one.layer is not None and one.layer in layers
        if is_whole or any(axis.any() for axis in axes):
            found[one.name] = NewEntries(axes, is_whole)
    return found


def _last_growths(history: Sequence[Record]) -> Sequence[Record]:
    """The last growth, and those before it from which one followed the other at the same step."""
    if not history:
        raise RequestError("no growth is recorded, so nothing is new, expected a checkpoint of `width` or `depth`")
    first = len(history) - 1
    while first and None is not history[first - 1]["step"][1] == history[first]["step"][0]:
        first -= 1
    last = history[first:]
    for record in last:
        if record.get("operator") == "width" and NEW_COORDINATES not in record:
            raise RequestError(
                f"the record of a growth in width (ckptgrow {record.get('version')}) does not tell which coordinates "
                "it added, expected one that does; grow the small checkpoint anew"
            )
    return last


def _new_coordinates(records: Sequence[Record], sizes: Mapping[str, int]) -> dict[str, BoolVector]:
    """For every space which of its coordinates are new; what a growth did not add comes from before it, in order."""
    marks = {space: np.zeros(_size_before(records, space, size), np.bool_) for space, size in sizes.items()}
    for record in records:
        for space, runs in record.get(NEW_COORDINATES, {}).items():
            added = np.zeros(record["sizes"][space], np.bool_)
            for start, stop in runs:
                added[start:stop] = True
            grown = added.copy()
            grown[~added] = marks[space]
            marks[space] = grown
    return marks


def _size_before(records: Sequence[Record], space: str, size: int) -> int:
    """A space's size before the growths."""
    return size - sum(stop - start for one in records for start, stop in one.get(NEW_COORDINATES, {}).get(space, ()))


def _new_layers(records: Sequence[Record]) -> set[int]:
    """The layers that are new, or made from ones that are."""
    new: set[int] = set()
    for record in records:
        if MAPS_LAYERS in record:
            layers = enumerate(record[MAPS_LAYERS])
            new = {index for index, (source, kind) in layers if kind != "old" or source in new}
    return new


def _architecture(model: torch.nn.Module) -> Architecture:
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        raise RequestError(
            f"{type(model).__name__} has no transformers config, expected a model that has, as `AutoModelForCausalLM` "
            "makes it; give the one inside a wrapper"
        )
    fields: dict[str, Any] = config.to_dict()
    return Architecture(family_of(fields), fields, "the grown model")
