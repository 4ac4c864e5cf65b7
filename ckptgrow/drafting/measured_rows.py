"""All that is measured on one tiny model: its rows, and what they are said to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ckptgrow.drafting.axis_lengths import Lengths, Sum
from ckptgrow.drafting.drafted_rows import DraftedRow, layer_of, rows_of, template_of
from ckptgrow.drafting.layers_of_rows import layer_lists, name_layers, sparse_layers, stacks_of
from ckptgrow.drafting.layout_search import Search
from ckptgrow.drafting.observed_model import Observed
from ckptgrow.drafting.observing import observe
from ckptgrow.drafting.optional_parts import OptionalParts
from ckptgrow.drafting.residual_stream import RESIDUAL, name_parts
from ckptgrow.drafting.roles import TOKENS, axis_ranks, read_spans, scale_effects, vector_kind
from ckptgrow.drafting.silencing import mark_silencing
from ckptgrow.drafting.tiny_config import LAYERS, Tiny
from ckptgrow.errors import ConfigError, listing

SILENCED = ("heads", "kv_heads", "ffn", "dense_ffn")
Pairs = tuple[tuple[str, str], ...]


@dataclass(eq=False)
class MeasuredRows:
    """The rows of one tiny model; `measure` fills them in. `unsure`: in one line each, what could not be told."""

    options: OptionalParts
    lengths: Lengths

    def __post_init__(self) -> None:
        self.unsure = [f"{field}, which changes shapes: drafted as it is by default" for field in self.options.untold]
        self.units: list[str] = []
        self.made: dict[str, tuple[str, ...]] = {}
        own = {space: int(self.subject.own_fields[field]) for space, field in self.lengths.fields.items()}
        derived = {space: own[whole] // own[part] for space, (whole, part) in self.lengths.derived.items()}
        self.sizes: dict[str, int] = {**own, **derived}

    @property
    def subject(self) -> Tiny:
        """The tiny model, with all optional parts."""
        return self.options.subject

    @cached_property
    def observed(self) -> Observed:
        """The same, real."""
        return observe(self.subject)

    @cached_property
    def stacks(self) -> dict[str, str]:
        """The beginnings of names in each stack of layers, and the config field of how many these are."""
        return stacks_of(self.subject)

    @cached_property
    def rows(self) -> list[DraftedRow]:
        """A row for each parameter, or for one of each layer."""
        shapes = {name: tuple(one.shape) for name, one in self.observed.parameters.items()}
        return rows_of(shapes, list(self.stacks))

    @cached_property
    def num_layers(self) -> str:
        """The config field; raises ConfigError where none changes the number of layers."""
        field = self.subject.field_of(LAYERS) or next(iter(self.stacks.values()), None)
        if field is None:
            raise ConfigError(
                f"{self.subject.model_type}: no config field changes the number of layers; write its table by hand"
            )
        return field

    @cached_property
    def lists(self) -> Mapping[str, list[str]]:
        """The config lists with one word a layer."""
        return layer_lists(self.subject, self.num_layers)

    @cached_property
    def ends(self) -> tuple[str | None, str | None]:
        """The names of the head's weight and of the embedding's."""
        names = {id(one): name for name, one in self.observed.parameters.items()}
        model: Any = self.observed.model
        head, embedding = (
            names.get(id(getattr(one, "weight", None)))
            for one in (model.get_output_embeddings(), model.get_input_embeddings())
        )
        return head, embedding

    def measure(self, tell: Callable[[str], None]) -> None:
        """Fills the rows in."""
        self._tell_kinds()
        sums = {
            row.name: tuple(self._sum(row.name, axis) for axis in range(self.observed.parameters[row.name].dim()))
            for row in self.rows
        }
        matrices = {row.name: 1 if row.read is None else row.read for row in self.rows if row.kind == "matrix"}
        search = Search(
            observed=self.observed,
            rows=self.rows,
            sums=sums,
            sizes=self.sizes,
            is_head_derived=bool(self.lengths.derived),
        )
        tell("relabels units, to see which axes they are on")
        search.find(read_spans(self.observed, matrices))
        self.unsure += search.unsure
        self.units, self.made = search.units, search.made
        self._tell_conditions()
        tell("zeroes units, to see what silences them")
        silenced = [unit for unit in SILENCED if unit in self.units and unit not in search.served.values()]
        for unit in mark_silencing(self.rows, silenced, search.served, self.sizes, self.observed):
            self.unsure.append(f"what silences a unit of {unit}: no zeros of one tensor do, so none has the mark !")
        name_parts(self.rows, self.observed, scale_effects(self.observed), self.ends[0] or "")
        self._tell_layers()

    def _tell_kinds(self) -> None:
        """What each row is, and which of its axes is read."""
        ranks = axis_ranks(self.observed)
        for row in self.rows:
            shape = tuple(self.observed.parameters[row.name].shape)
            if sum(length > 1 for length in shape) <= 1:
                own = row.bias_name if row.bias_name in self.observed.parameters else None
                row.kind = vector_kind(self.observed, row.name, own) if len(shape) == 1 else "bias"
                continue
            row.read = ranks[row.name].read
            is_told = row.read is not None and shape[row.read] > TOKENS
            if len(shape) == 3:
                row.kind = "convolution" if shape[1] == 1 else "experts"
            elif len(shape) != 2:
                self.unsure.append(f"{row.template}, which has {len(shape)} axes")
            elif not is_told and not self._is_matrix(row.name):
                row.kind = vector_kind(self.observed, row.name, None)
            elif row.read is None:
                self.unsure.append(f"which axis of {row.template} is read")

    def _is_matrix(self, name: str) -> bool:
        """Whether a parameter belongs to one of the modules that multiply by a matrix."""
        owner = self.observed.model.get_submodule(name.rpartition(".")[0])
        return isinstance(owner, torch.nn.Linear | torch.nn.Embedding) or type(owner).__name__ == "Conv1D"

    def _sum(self, name: str, axis: int) -> Sum:
        found = self.lengths.axes.get(name, ())
        length = self.observed.parameters[name].shape[axis]
        known = found[axis] if axis < len(found) else None
        if known is None:
            self.unsure.append(f"what the length {length} of axis {axis} of {name} is made of")
            return ((int(length), ()),)
        return known

    def _tell_conditions(self) -> None:
        """When each row is there, and which experts' outputs are summed."""
        for row in self.rows:
            row.is_routed = row.kind == "experts" and row.axes[3 - (row.read or 2)] == RESIDUAL
            if row.is_routed and row.axes[0] == (("experts",),):
                row.axes[0] = (("routed",),)
            row.when = self.options.conditions.get(row.name)
            if row.name in dict(self.twins_if_tied):
                row.when = f"not {self.options.tie}"

    def _tell_layers(self) -> None:
        untold: dict[str, list[str]] = {}
        sparse = sparse_layers(self.subject, self.num_layers)
        for row in name_layers(self.rows, list(self.stacks), self.lists, sparse):
            layers = sorted({layer_of(name, list(self.stacks)) or 0 for name in row.names})
            untold.setdefault(", ".join(map(str, layers)), []).append(row.template)
        for layers, templates in untold.items():
            self.unsure.append(f"what makes layers {layers} those that have {listing(templates)}")

    @cached_property
    def twins(self) -> Pairs:
        """Names that always are one tensor: another name, and that of the parameter."""
        return self._twins_in(self.observed.model)

    @cached_property
    def twins_if_tied(self) -> Pairs:
        """The same where the head is tied, without the head itself."""
        if self.options.tie is None:
            return ()
        model = self.subject.built(**{self.options.tie: True})
        return tuple(pair for pair in self._twins_in(model) if pair not in self.twins and set(pair) != set(self.ends))

    def _twins_in(self, model: torch.nn.Module) -> Pairs:
        first: dict[int, str] = {}
        found: dict[str, str] = {}
        for name, one in model.named_parameters(remove_duplicate=False):
            kept = first.setdefault(id(one), name)
            if kept != name:
                found[template_of(name, list(self.stacks))] = template_of(kept, list(self.stacks))
        return tuple(found.items())
