"""How each of the grown model's weights is made, as the module has them and as the file stores them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import torch

from ckptgrow.growth.growing import Growing
from ckptgrow.growth.lineage import Descent
from ckptgrow.growth.operator import Operator
from ckptgrow.growth.tensors.blended_rows import blended
from ckptgrow.growth.tensors.drawn_routers import drawn_router
from ckptgrow.growth.tensors.fresh_entries import padded
from ckptgrow.growth.tensors.grown_tensors import (
    constant,
    dealt,
    drawn,
    gathered,
    gathered_beside,
    own,
    root_mean_square,
    scaled_beside,
    with_noise,
)
from ckptgrow.spaces.noise import Noise, key_of, noise_for
from ckptgrow.spaces.split import split_for
from ckptgrow.state.claim import Claimed
from ckptgrow.state.mixture_terms import ROUTER
from ckptgrow.state.pieces import piece_name
from ckptgrow.storage.tensors import LazyTensor, Made, Zeros


@dataclass(frozen=True)
class Weights:
    """Grown tensors by name.

    `in_module` has each parameter as one tensor, where `in_file` may hold it in pieces. Tied tensors are one object.
    """

    in_module: dict[str, LazyTensor]
    in_file: dict[str, LazyTensor]


@dataclass(frozen=True)
class _Source:
    """What a weight is made from.

    `old`: the old tensor; `measure`: the tensor whose root mean square is the unit of noise; `name`: the parameter by
    whose name numbers are drawn; `first_row`: where in this parameter a piece of it begins.
    """

    old: LazyTensor
    measure: LazyTensor
    name: str
    first_row: int = 0


def grown_weights(growing: Growing) -> Weights:
    """The grown model's tensors, made when the writer asks for their rows."""
    in_module = _in_module(growing)
    return Weights(in_module, _in_file(growing, in_module))


def _in_module(growing: Growing) -> dict[str, LazyTensor]:
    """The grown model's state dict, in which a tied head is the same object as its embedding."""
    claim, tensors = growing.old.claim, growing.old.in_module(growing.tensors)
    grown: dict[str, LazyTensor] = {}
    measures = {one.canonical: tensors[one.name] for one in reversed(claim.tensors)}  # the model's own, the first
    for one in growing.lineage:
        if one.old.name in claim.tied:
            continue
        old, name = tensors[one.old.name], one.old.canonical
        is_own = one.old.is_buffer and one.growth.is_identity
        made = own(old) if is_own else _weight(one, growing.operator, _Source(old, measures[name], name))
        grown[one.name] = made
    return {one.name: grown[claim.tied.get(one.old.name, one.name)] for one in growing.lineage}


def _in_file(growing: Growing, in_module: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The grown tensors as the file stores them: parameters that it holds in pieces grow piece by piece."""
    operator = growing.operator
    written: dict[str, LazyTensor] = {}
    for one in growing.lineage:
        parts = growing.old.pieces.of(one.old.name)
        if not parts:
            written[one.name] = in_module[one.name]
        if parts and (growing.old.dense is not None or not one.growth.axes[0].growth.is_identity):
            written |= _pieces_of_more(one, growing.old.pieces.parts[one.old.name], in_module[one.name])
            continue
        first_row = 0
        for part in parts:
            old = growing.tensors[part.name]
            piece = Descent(
                name=part.name_in(one.index),
                old=part,
                growth=operator.tensor_growth(part),
                layer=one.layer,
                index=one.index,
            )
            written[piece.name] = _weight(piece, operator, _Source(old, old, one.old.canonical, first_row))
            first_row += piece.growth.axes[0].growth.num_new
    return written


def _pieces_of_more(one: Descent, parts: Sequence[Sequence[Claimed]], grown: LazyTensor) -> dict[str, LazyTensor]:
    """The pieces of a parameter with more experts than the file has, which are made of one expert at a time."""

    @lru_cache(maxsize=1)
    def expert(number: int) -> torch.Tensor:
        return grown.rows(number, number + 1)[0]

    def piece(number: int, first: int, size: int) -> LazyTensor:
        shape = (size, *grown.shape[2:])
        return Made(shape, grown.dtype, lambda start, stop: expert(number)[first + start : first + stop].contiguous())

    pieces: dict[str, LazyTensor] = {}
    size = grown.shape[1] // len(parts[0])
    for number in range(grown.shape[0]):
        for place, part in enumerate(parts[0]):
            pieces[piece_name(part, one.index, number)] = piece(number, place * size, size)
    return pieces


def grown_beside(one: Descent, growing: Growing, old: LazyTensor) -> LazyTensor:
    """Another point in the space of a weight (an average of it, where it began), grown as the weight is: with the same
    draws, and noise of the weight's size.
    """
    measure = growing.old.in_module(growing.tensors)[one.old.name]
    return _weight(one, growing.operator, _Source(old, measure, one.old.canonical))


def _weight(one: Descent, operator: Operator, source: _Source) -> LazyTensor:
    old, gather, name = source.old, one.growth.weight(operator.block_weights), one.old.canonical
    if one.is_zero:
        value = -one.old.layout.offset
        return constant(gather.shape, old.dtype, value) if value else Zeros(gather.shape, old.dtype)
    if operator.routers is not None and one.old.layout.text == ROUTER:
        return drawn_router(gather.shape, old.dtype, operator.routers, key_of(operator.seed, name))
    if one.is_drawn:
        return drawn(old, source.measure, operator.seed, one.module_name)
    if one.share != 1:
        return scaled_beside(old, one.share, one.old.layout.offset)
    if one.growth.is_identity:
        return own(old)
    if one.growth.has_blends:
        return blended(old, gather)
    if one.growth.has_fresh:
        return padded(old, one.growth, operator.seed, name)
    if one.old.layout.offset:
        return gathered_beside(old, gather, one.old.layout.offset)
    if operator.separate == "split":
        split = split_for(
            one.growth, seed=operator.seed, name=source.name, spread=operator.spread, first_row=source.first_row
        )
        return gathered(old, gather) if split is None else dealt(old, split, name)
    if operator.separate == "none":
        return gathered(old, gather)
    return with_noise(old, gather, _noise(one, operator, source.measure), f"{name}: noise {operator.noise:g}")


def _noise(one: Descent, operator: Operator, measure: LazyTensor) -> Callable[[], Noise | None]:
    """The null-space term of a weight, made when it is first asked for.

    Its strength is in units of the root mean square of `measure`. This is the old weight; for an average of weights it
    is the weight itself, so that the grown average is an average of grown weights.
    """

    @cache
    def noise() -> Noise | None:
        amplitude = operator.noise * root_mean_square(measure)
        return noise_for(one.growth, seed=operator.seed, name=one.old.canonical, amplitude=amplitude)

    return noise
