"""Which old layer each layer of the grown model is, or was made from.

The records say it, and the weights are then judged by what they say. Where no record can be right, the weights alone
show it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, Literal, TypeGuard, get_args

import numpy as np
import torch

from ckptgrow.spaces.growth import Growth, IntVector, identities
from ckptgrow.spaces.layers import LayerKind
from ckptgrow.spaces.selection import selected
from ckptgrow.state.claim import Claimed
from ckptgrow.state.opening import TrainingState
from ckptgrow.storage.tensors import num_elements
from ckptgrow.verification.pair import LayerOrigin, Link
from ckptgrow.verification.tensor_blocks import blocks_of, exact_sum, row_sums
from ckptgrow.verification.threads import in_threads
from ckptgrow.verification.trees import is_count

Identity = Literal["zero-output", "zero-norm"]  # the kinds of new layers that change nothing
IDENTITIES: tuple[Identity, ...] = get_args(Identity)
SAME = 1e-3  # relative difference of fingerprints; layers that differ at all differ by far more
Fingerprints = Mapping[str, tuple[float, ...]]


def recorded_layers(records: Sequence[Any], num_old: int, num_new: int) -> tuple[LayerOrigin, ...] | None:
    """The layer maps of the records, one applied to the other; None where they are none of such models."""
    layers = tuple(LayerOrigin(source=index, kind="old") for index in range(num_old))
    for record in records:
        if not isinstance(record, Mapping) or "layers" not in record:
            continue
        listed = record["layers"]
        if not is_layer_map(listed) or misfit_of(listed, len(layers)):
            return None
        is_anew = "new" in (record.get("reset") or ())
        counts = Counter(source for source, _ in listed)
        shares = [1 / counts[source] if record.get("new") == "ode" else 1.0 for source, _ in listed]
        made = [_made(layers[source], kind, is_anew=is_anew) for source, kind in listed]
        layers = tuple(replace(one, share=one.share * share) for one, share in zip(made, shares, strict=True))
    return layers if len(layers) == num_new else None


def _made(origin: LayerOrigin, kind: LayerKind, *, is_anew: bool) -> LayerOrigin:
    """What a layer is that is made from one that was made itself; `is_anew` where new layers begin without moments."""
    if kind == "old":
        return origin
    is_anew = is_anew or origin.is_anew or kind == "random"
    if kind in ("copy", "ode") and origin.zeroed:
        return replace(origin, is_anew=is_anew)
    if kind not in IDENTITIES:
        return replace(origin, kind=kind, is_anew=is_anew, is_drawn=origin.is_drawn or kind == "random")
    return replace(origin, kind=kind, zeroed=origin.zeroed | frozenset[LayerKind]([kind]), is_anew=is_anew)


def is_layer_map(value: Any) -> TypeGuard[list[tuple[int, LayerKind]]]:
    """Whether a value has the form of a layer map: pairs of a layer's number and a kind."""
    return isinstance(value, list) and all(
        isinstance(one, list) and len(one) == 2 and is_count(one[0]) and one[1] in get_args(LayerKind) for one in value
    )


def misfit_of(layers: Sequence[tuple[int, LayerKind]], num_old: int) -> str:
    """Why a layer map does not fit a model with `num_old` layers, as the end of a sentence; empty where it fits."""
    if any(source >= num_old for source, _ in layers):
        return "are more than there are"
    if [source for source, kind in layers if kind == "old"] != list(range(num_old)):
        return "do not keep the old ones"
    return ""


def is_zero_in(kind: LayerKind, parameter: Claimed) -> bool:
    """Whether this parameter is zero in a new layer of a kind, to make the layer an identity."""
    if kind == "zero-output":
        return "residual" in parameter.layout.written
    return kind == "zero-norm" and parameter.layout.kind in ("gain", "bias")


def matched_layers(
    small: TrainingState, grown: TrainingState, growths: Mapping[str, Growth], num_old: int, num_new: int
) -> tuple[LayerOrigin, ...]:
    """A layer map from the small to the grown model, by their weights alone.

    A layer is an old one where (most of) that one's weights recur, in order; an identity where every gain is zero, or
    every tensor that writes the residual stream; and otherwise a copy.
    """
    if num_old == num_new:
        return tuple(LayerOrigin(source=index, kind="old") for index in range(num_old))
    old = _stack(small, growths, num_old, projected=False)
    new = _stack(grown, growths, num_new, projected=True)
    layers: list[LayerOrigin] = []
    next_old = 0
    for index in range(num_new):
        must_be_old = num_new - index <= num_old - next_old
        layer = _judge(new[index], old, next_old, grown, index, must_be_old=must_be_old)
        layers.append(layer)
        next_old += layer.kind == "old"
    return tuple(layers)


def _judge(
    layer: Fingerprints,
    old: Sequence[Fingerprints],
    next_old: int,
    grown: TrainingState,
    index: int,
    *,
    must_be_old: bool,
) -> LayerOrigin:
    likeness = [_likeness(layer, candidate) for candidate in old]
    if next_old < len(old) and (likeness[next_old] == 1 or must_be_old):
        return LayerOrigin(source=next_old, kind="old")
    source = max(range(len(old)), key=lambda candidate: (likeness[candidate], candidate == next_old - 1))
    kind = _identity_kind(grown, layer, index)
    if kind is not None:
        return LayerOrigin(source=source, kind=kind, zeroed=frozenset({kind}))
    if next_old in (source, 0):
        return LayerOrigin(source=next_old, kind="old")
    is_copy = next_old >= len(old) or likeness[source] == 1 or likeness[next_old] < likeness[source]
    return LayerOrigin(source=source, kind="copy") if is_copy else LayerOrigin(source=next_old, kind="old")


def _likeness(one: Fingerprints, other: Fingerprints) -> float:
    same = sum(pattern in one and _close(one[pattern], other[pattern]) for pattern in other)
    return same / max(1, len(other))


def _close(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(abs(a - b) <= SAME * max(abs(a), abs(b), 1e-30) for a, b in zip(one, other, strict=True))


def _identity_kind(grown: TrainingState, layer: Fingerprints, index: int) -> LayerKind | None:
    members = [one for one in grown.claim.parameters if one.layer == index]
    zero = {one.pattern for one in members if not any(layer[one.pattern])}
    for kind in IDENTITIES:
        if zero >= {one.pattern for one in members if is_zero_in(kind, one)}:
            return kind
    return None


def _stack(
    state: TrainingState, growths: Mapping[str, Growth], num_layers: int, *, projected: bool
) -> tuple[Fingerprints, ...]:
    layers: list[dict[str, tuple[float, ...]]] = [{} for _ in range(num_layers)]
    members = [one for one in state.claim.parameters if one.layer is not None]
    found = in_threads(
        lambda one: _fingerprint(state, one, growths if projected else None),
        members,
        lambda one: num_elements(state.checkpoint.tensors[one.name]),
    )
    for one, fingerprint in zip(members, found, strict=True):
        assert one.layer is not None
        layers[one.layer][one.pattern] = fingerprint
    return tuple(layers)


def _fingerprint(state: TrainingState, one: Claimed, growths: Mapping[str, Growth] | None) -> tuple[float, ...]:
    """The sums of squares, weighted by three ramps over the places, of a weight as the model applies it.

    `growths`: by which a grown weight is taken in the small shape: summed over the copies of inputs, of each output
    only the first copy.
    """
    tensor, offset = state.checkpoint.tensors[one.name], one.layout.offset
    link, sums = Link.of(one, one, growths or identities(state.architecture.sizes)), [list[float]() for _ in range(3)]
    shape = tuple(growth.num_old for growth in link.growths) or tensor.shape
    for block in blocks_of(link, tensor.shape):
        found = _projected(block.link, block.grown(tensor).double() + offset)
        squares, ramp = found.square(), _ramp(block.old, found.shape, shape)
        for power, values in enumerate(sums):
            values.extend(row_sums(squares * ramp**power))
    return tuple(exact_sum(entries) for entries in sums)


def _projected(link: Link, tensor: torch.Tensor) -> torch.Tensor:
    tensor = link.summed_inputs(tensor)
    for axis, growth in enumerate(link.growths):
        if axis not in link.in_axes:
            tensor = selected(tensor, axis, np.unique(growth.source, return_index=True)[1])
    return tensor


def _ramp(places: Sequence[IntVector], part: tuple[int, ...], shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers from a half to one and a half in the order of the entries, of those of a part, which lies at `places`
    along its first axes.
    """
    flat = torch.zeros(part, dtype=torch.float64)
    for axis, size in enumerate(part):
        along = places[axis] if axis < len(places) else np.arange(size)
        flat += torch.from_numpy(along.astype(np.float64)).reshape([-1] + [1] * (len(part) - axis - 1)) * prod(
            shape[axis + 1 :]
        )
    return 0.5 + flat / max(1, prod(shape) - 1)
