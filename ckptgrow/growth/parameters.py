"""The grown model's tensors: their names in order, and how each is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ckptgrow.growth.operator import Operator, is_zero_in
from ckptgrow.growth.tensors.fresh_entries import Padded
from ckptgrow.growth.tensors.grown_tensors import Dealt, Filled, Guard, Offset, Separated, gathered
from ckptgrow.spaces.gather import TensorGrowth
from ckptgrow.spaces.layers import Layer
from ckptgrow.spaces.split import split_for
from ckptgrow.state.claim import Claim, Claimed
from ckptgrow.state.pieces import Pieces
from ckptgrow.storage.tensors import LazyTensor, Zeros

UNCHANGED = Layer(0, "old")


@dataclass(frozen=True)
class Descent:
    """One new tensor: its name, the old tensor that it comes from, how that grows, what its layer is and its number."""

    name: str
    old: Claimed
    growth: TensorGrowth
    layer: Layer
    index: int = 0

    @property
    def is_zero(self) -> bool:
        """Whether the new tensor is zero because its layer is an identity."""
        return is_zero_in(self.layer.kind, self.old)


@dataclass(frozen=True)
class Draws:
    """Whose random draws a weight gets: the whole parameter's, of which a piece has the rows from `first_row` on."""

    seed: int
    name: str
    first_row: int = 0


def descents(claim: Claim, operator: Operator) -> tuple[Descent, ...]:
    """All new tensors in model order: layers in the new stack's order, the rest where it was."""
    return tuple(
        Descent(name, old, operator.tensor_growth(old), layer, index)
        for name, old, layer, index in _ordered(claim.tensors, operator)
    )


def grown_tensors(
    lineage: Sequence[Descent],
    tensors: Mapping[str, LazyTensor],
    claim: Claim,
    operator: Operator,
    where: str,
    guard: Guard,
) -> dict[str, LazyTensor]:
    """The grown model's state dict; a tied head is its embedding's very tensor."""
    grown: dict[str, LazyTensor] = {}
    measures = {one.canonical: tensors[one.name] for one in reversed(claim.tensors)}  # the model's own, the first
    for one in lineage:
        if one.old.name in claim.tied:
            continue
        old = tensors[one.old.name]
        guarded = guard(old, f"{where}: tensor {one.old.name}")
        draws = Draws(operator.seed, one.old.canonical)
        measure = measures[one.old.canonical]
        grown[one.name] = old if one.old.is_buffer else _weight(one, guarded, operator, measure, draws)
    return {one.name: grown[claim.tied.get(one.old.name, one.name)] for one in lineage}


def in_pieces(
    grown: Mapping[str, LazyTensor],
    lineage: Sequence[Descent],
    pieces: Pieces,
    stored: Mapping[str, LazyTensor],
    operator: Operator,
    where: str,
    guard: Guard,
) -> dict[str, LazyTensor]:
    """The grown tensors as the file keeps them: what it holds in pieces grows piece by piece."""
    written: dict[str, LazyTensor] = {}
    for one in lineage:
        parts = pieces.of(one.old.name)
        if not parts:
            written[one.name] = grown[one.name]
        first_row = 0
        for part in parts:
            old = guard(stored[part.name], f"{where}: tensor {part.name}")
            name = part.name_in(one.index)
            piece = Descent(name, part, operator.tensor_growth(part), one.layer, one.index)
            draws = Draws(operator.seed, one.old.canonical, first_row)
            written[name] = _weight(piece, old, operator, stored[part.name], draws)
            first_row += piece.growth.axes[0].growth.num_new
    return written


def _weight(one: Descent, old: LazyTensor, operator: Operator, measure: LazyTensor, draws: Draws) -> LazyTensor:
    gather = one.growth.weight(operator.block_weights)
    if one.is_zero:
        value = -one.old.layout.offset
        return Filled(gather.shape, old.dtype, value) if value else Zeros(gather.shape, old.dtype)
    if one.growth.is_identity:
        return old
    if one.growth.has_fresh:
        return Padded(old, one.growth, operator.seed, one.old.canonical)
    if one.old.layout.offset:
        return Offset(old, gather, one.old.layout.offset)
    if operator.separate == "split":
        split = split_for(one.growth, seed=draws.seed, name=draws.name, first_row=draws.first_row)
        return gathered(old, gather) if split is None else Dealt(old, split)
    if operator.separate == "none":
        return gathered(old, gather)
    return Separated(old, one.growth, gather, operator.noise, operator.seed, one.old.canonical, measure)


def _ordered(tensors: Sequence[Claimed], operator: Operator) -> Iterator[tuple[str, Claimed, Layer, int]]:
    stacks: dict[str, dict[int, list[Claimed]]] = {}
    inset = _inset(tensors)
    for one in tensors:
        place = inset.get(one.name, one)
        if place.layer is not None:
            stacks.setdefault(_stack(place), {}).setdefault(place.layer, []).append(one)
    for one in tensors:
        if one.name in inset:
            continue
        if one.layer is None:
            yield one.name, one, UNCHANGED, 0
        elif (stack := stacks.pop(_stack(one), None)) is not None:
            for index, layer in enumerate(operator.layers):
                for member in stack.get(layer.source, ()):  # stacks may differ in depth
                    if member.layer is not None:
                        yield member.name_in(index), member, layer, index
                    elif layer.kind == "old":
                        yield member.name, member, UNCHANGED, index


def _inset(tensors: Sequence[Claimed]) -> dict[str, Claimed]:
    """Tensors of one layer alone (T5's relative positions), by their neighbour: their place is among its tensors."""
    neighbours = zip(tensors, tensors[1:], tensors[2:], strict=False)
    return {
        one.name: before
        for before, one, after in neighbours
        if one.layer is None and before.layer is not None and before.layer == after.layer
        if _stack(before) == _stack(after)
    }


def _stack(one: Claimed) -> str:
    return one.prefix + one.pattern.partition("{layer}")[0]
