"""Judges what a table says of the way that data flow: what a gain's readers are, what silences a unit, what writes the
residual stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from ckptgrow.drafting.relabelling import length_of, places_of
from ckptgrow.drafting.roles import NOTHING, GainReading, readers_of, silent
from ckptgrow.drafting.tabled_model import SERVED, Tabled, bias_of
from ckptgrow.errors import listing

SILENCED = ("heads", "kv_heads", "ffn", "dense_ffn")  # units that may grow alone, without copies


def misread(subject: Tabled) -> Iterator[str]:
    observed, rows = subject.observed, subject.rows
    reading = {
        name: [axis for axis, one in enumerate(row.layout.axes) if one.role == "in"]
        for name, row in rows.items()
        if row.layout.kind == "matrix"
    }
    for name, row in rows.items():
        if row.layout.kind != "gain" or row.layer not in (None, 0) or len(row.layout.axes[0].parts[0]) > 1:
            continue
        (space,) = row.layout.axes[0].spaces
        if subject.root(space) != "residual":
            continue
        candidates = [
            (other, axis)
            for other, axes in reading.items()
            for axis in axes
            if {subject.root(one) for one in rows[other].layout.axes[axis].spaces} == {"residual"}
            and (row.layer is None or rows[other].layer in (row.layer, None))
        ]
        found = readers_of(observed, name, bias_of(name, rows), candidates, subject.effects)
        yield from _not_read(subject, name, space, found)
        if found is not None and found.offset != row.layout.offset:
            yield f"{name}: {row.layout.text!r}, measured: stored without {found.offset:g}"


def _not_read(subject: Tabled, name: str, space: str, found: GainReading | None) -> Iterator[str]:
    """What the table says else of the readers of what a gain writes."""
    rows, made = subject.rows, subject.family.made
    readers = {
        other: {made.get(one, one) for axis in row.layout.axes if axis.role == "in" for one in axis.spaces}
        for other, row in rows.items()
    }
    if found is not None:
        for other in found.readers:
            if space not in readers[other]:
                yield f"{other}: {rows[other].layout.text!r}, measured: it reads what {name} writes, {space!r}"
    elif space != "residual" and any(space in one for one in readers.values()):
        yield f"{name}: writes {space!r}, measured: no matrices alone read it"


def unsilenced(subject: Tabled) -> Iterator[str]:
    for space in subject.architecture.sizes:
        readers = _read_with(subject, space)
        if space not in SILENCED or space not in subject.family.units or not readers:
            continue
        marked = {name: found for name in subject.rows if (found := _coordinates(subject, name, space, marked=True))}
        if marked:
            heard = _heard(subject, space, marked, readers)
            if heard:
                yield f"{space}: zeros at ! are said to silence a unit, measured: {heard} reads it still"
            continue
        for name, row in subject.rows.items():
            places = _coordinates(subject, name, space, marked=False)
            if places and row.layer in (None, 0) and not _heard(subject, space, {name: places}, readers, row.layer):
                yield f"{name}: {row.layout.text!r} has no !, measured: zeros there silence a unit of {space}"


Coordinates = list[tuple[int, torch.Tensor]]  # an axis, and places on it


def _coordinates(subject: Tabled, name: str, space: str, *, marked: bool) -> Coordinates:
    """Where a tensor writes unit 0 of a space; `marked`: only where a mark says that zeros silence the unit."""
    found: Coordinates = []
    for position, axis in enumerate(subject.rows[name].layout.axes):
        if axis.role != "out":
            continue
        places = places_of(axis, subject.architecture.sizes, space, only_marked=marked)
        if len(places):
            found.append((position, places))
    return found


def _read_with(subject: Tabled, space: str) -> dict[str, Coordinates]:
    """Where tensors read unit 0 of a space, or what it serves."""
    sizes = subject.architecture.sizes
    served = dict(SERVED).get(space)
    found: dict[str, Coordinates] = {}
    for name, row in subject.rows.items():
        if row.layout.kind != "matrix":
            continue
        for position, axis in enumerate(row.layout.axes):
            if axis.role == "in" and space in axis.spaces:
                found.setdefault(name, []).append((position, places_of(axis, sizes, space)))
            elif axis.role == "in" and served in axis.spaces:
                members = sizes[str(served)] // sizes[space]
                places = torch.arange(length_of(axis, sizes) // sizes[space] if members else 0)  # the first group
                found.setdefault(name, []).append((position, places))
    return found


def _heard(
    subject: Tabled,
    space: str,
    zeroed: Mapping[str, Coordinates],
    readers: Mapping[str, Coordinates],
    layer: int | None = None,
) -> str | None:
    """A tensor whose gradient still sees unit 0 when these places are zero."""
    parameters = subject.observed.parameters
    state = {name: parameters[name].detach().clone() for name in zeroed}
    for name, places in zeroed.items():
        for axis, at in places:
            state[name].index_fill_(axis, at, 0.0)
    with subject.observed.replaced(state):
        gradients = subject.observed.gradients(0)
    for name, places in readers.items():
        if layer is not None and subject.rows[name].layer != layer:
            continue
        for axis, at in places:
            slices = gradients[name].index_select(axis, at)
            if float(slices.abs().max()) > NOTHING * float(gradients[name].abs().max()):
                return name
    return None


def unwritten(subject: Tabled) -> Iterator[str]:
    refused = {one.operator for one in subject.family.refusals if subject.architecture.holds(one.when)}
    if not subject.family.depth_is_exact or "zero-output" in refused or "depth" in refused:
        return
    rows, parameters = subject.rows, subject.observed.parameters
    stacks: dict[str, int] = {}
    for row in rows.values():
        if row.layer is not None:
            stack = row.pattern.partition("{layer}")[0]
            stacks[stack] = max(stacks.get(stack, 0), row.layer)
    for stack, last in stacks.items():
        inside = {
            name: row for name, row in rows.items() if row.layer == last and row.pattern.startswith(stack + "{layer}")
        }
        writers = {
            n: torch.full_like(parameters[n], -r.layout.offset)
            for n, r in inside.items()
            if "residual" in r.layout.written
        }
        with subject.observed.replaced(writers):
            heard = sorted(set(inside) - silent(subject.observed.gradients(0)) - set(writers))
        if heard:
            yield f"{listing(heard)}: seen by the logits though all that writes 'residual' in its layer is zero"
