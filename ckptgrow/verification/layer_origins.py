"""Which old layer each layer of the grown model is, read from the weights alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ckptgrow.spaces.growth import Growth
from ckptgrow.spaces.layers import Layer, LayerKind
from ckptgrow.spaces.selection import selected
from ckptgrow.state.claim import Claimed
from ckptgrow.state.opening import TrainingState
from ckptgrow.verification.pair import Link, applied

SAME = 1e-3  # relative difference of fingerprints; layers that differ at all differ by far more
Fingerprints = Mapping[str, tuple[float, ...]]


def match_layers(
    small: TrainingState, grown: TrainingState, growths: Mapping[str, Growth], num_old: int, num_new: int
) -> tuple[Layer, ...]:
    """A layer map from small to grown: an old layer where (most of) its weights recur in order, an identity where all
    that writes the residual stream or every gain is zero, a copy otherwise.
    """
    if num_old == num_new:
        return tuple(Layer(index, "old") for index in range(num_old))
    old = _stack(small, growths, num_old, projected=False)
    new = _stack(grown, growths, num_new, projected=True)
    layers: list[Layer] = []
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
) -> Layer:
    likeness = [_likeness(layer, candidate) for candidate in old]
    if next_old < len(old) and (likeness[next_old] == 1 or must_be_old):
        return Layer(next_old, "old")
    source = max(range(len(old)), key=lambda candidate: (likeness[candidate], candidate == next_old - 1))
    kind = _identity_kind(grown, layer, index)
    if kind is not None:
        return Layer(source, kind)
    if next_old in (source, 0):
        return Layer(next_old, "old")
    if likeness[source] == 1 or next_old >= len(old):
        return Layer(source, "copy")
    return Layer(next_old, "old") if likeness[next_old] >= likeness[source] else Layer(source, "copy")


def _likeness(one: Fingerprints, other: Fingerprints) -> float:
    same = sum(pattern in one and _close(one[pattern], other[pattern]) for pattern in other)
    return same / max(1, len(other))


def _close(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(abs(a - b) <= SAME * max(abs(a), abs(b), 1e-30) for a, b in zip(one, other, strict=True))


def _identity_kind(grown: TrainingState, layer: Fingerprints, index: int) -> LayerKind | None:
    members = [one for one in grown.claim.parameters if one.layer == index]
    zero = {one.pattern for one in members if not any(layer[one.pattern])}
    if zero >= {one.pattern for one in members if "residual" in one.layout.written}:
        return "zero-output"
    if zero >= {one.pattern for one in members if one.layout.kind in ("gain", "bias")}:
        return "zero-norm"
    return None


def _stack(
    state: TrainingState, growths: Mapping[str, Growth], num_layers: int, *, projected: bool
) -> tuple[Fingerprints, ...]:
    layers: list[dict[str, tuple[float, ...]]] = [{} for _ in range(num_layers)]
    for one in state.claim.parameters:
        if one.layer is not None:
            tensor = applied(state, one)
            layers[one.layer][one.pattern] = _fingerprint(_projected(one, tensor, growths) if projected else tensor)
    return tuple(layers)


def _projected(one: Claimed, tensor: torch.Tensor, growths: Mapping[str, Growth]) -> torch.Tensor:
    """The grown weight in the small shape: summed over input copies, the first of each output's copies."""
    link = Link.of(one, one, growths)
    tensor = link.summed_inputs(link.copied_part(tensor))
    for axis, growth in enumerate(link.growths):
        if axis not in link.in_axes:
            tensor = selected(tensor, axis, (growth.copy == 0).nonzero()[0])
    return tensor


def _fingerprint(tensor: torch.Tensor) -> tuple[float, ...]:
    flat = tensor.reshape(-1)
    ramp = torch.linspace(0.5, 1.5, len(flat), dtype=torch.float64)
    return float(flat.square().sum()), float((flat.square() * ramp).sum()), float((flat.square() * ramp**2).sum())
