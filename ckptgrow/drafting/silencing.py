"""Which zeros silence a unit: where what writes it is zero, the gradients of what reads it vanish."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from ckptgrow.drafting.drafted_rows import DraftedRow
from ckptgrow.drafting.observed_model import Observed
from ckptgrow.drafting.relabelling import length_of, places_of
from ckptgrow.drafting.roles import NOTHING
from ckptgrow.spaces.layout import Axis

Rows = Sequence[DraftedRow]
Places = list[tuple[str, int, torch.Tensor]]  # a parameter, an axis, and places on it
Mark = tuple[int, int, int]  # an axis, a part, and the factor


def mark_silencing(
    rows: Rows,
    units: Sequence[str],
    served: Mapping[str, str],
    sizes: Mapping[str, int],
    observed: Observed,
) -> list[str]:
    """Marks in the rows (in place) what silences each of the units; the units that nothing silences are returned."""
    left: list[str] = []
    by_name = {row.name: row for row in rows}
    for unit in units:
        for group in _modules(rows, unit, served, sizes):
            reading = _reading(group, unit, served, sizes)
            found = [one for one in _marks(group, unit) if not _is_heard(one, reading, sizes, unit, observed)]
            if reading and not found:
                left.append(unit)
            for row, axis, part, factor in _best(found, reading, unit, sizes, observed):
                row.marked[axis, part] = factor
                bias = by_name.get(row.bias_name or "")
                if bias is not None:
                    bias.marked[0, part] = factor
    return list(dict.fromkeys(left))


Candidate = tuple[DraftedRow, int, int, int]  # a row, its axis, a part of it, and the factor to mark


def _modules(rows: Rows, unit: str, served: Mapping[str, str], sizes: Mapping[str, int]) -> list[list[DraftedRow]]:
    """The rows of each module that writes the unit and reads it; those of one stack that do one alone are together."""
    found: dict[str, list[DraftedRow]] = {}
    for row in rows:
        found.setdefault(row.module, []).append(row)
    whole: list[list[DraftedRow]] = []
    halves: dict[str, list[DraftedRow]] = {}
    for parent, several in found.items():
        is_written = any(True for _ in _marks(several, unit))
        is_read = bool(_reading(several, unit, served, sizes))
        if is_written and is_read:
            whole.append(several)
        elif is_written or is_read:
            halves.setdefault(parent.partition("{layer}")[0], []).extend(several)
    return [*whole, *halves.values()]


def _marks(rows: Rows, unit: str) -> Iterator[Candidate]:
    for row in rows:
        if row.kind in ("bias", "gain", "1+gain", "convolution"):
            continue
        for axis, parts in enumerate(row.axes):
            for place, part in enumerate(parts):
                if unit in part and row.role(axis) == "out":
                    numbers = [i for i, factor in enumerate(part) if isinstance(factor, int) and factor > 1]
                    yield row, axis, place, numbers[0] if numbers else part.index(unit)


def _written(candidate: Candidate, unit: str, sizes: Mapping[str, int], rows: Mapping[str, torch.Tensor]) -> Places:
    """The places that a mark concerns: unit 0, in the last of several; those of the bias too."""
    row, axis, part, factor = candidate
    marks = tuple(
        tuple(i == factor and place == part for i in range(len(one))) for place, one in enumerate(row.axes[axis])
    )
    places = places_of(Axis("out", row.axes[axis], marks), sizes, unit, only_marked=True)
    bias = row.bias_name or ""
    return [(row.name, axis, places), *([(bias, 0, places)] if bias in rows else [])]


def _reading(rows: Rows, unit: str, served: Mapping[str, str], sizes: Mapping[str, int]) -> Places:
    """Where unit 0, or what it serves, is read."""
    found: Places = []
    for row in rows:
        if row.kind in ("bias", "gain", "1+gain"):
            continue
        for axis in range(len(row.axes)):
            one = row.axis(axis)
            if one.role == "in" and unit in one.spaces:
                found.append((row.name, axis, places_of(one, sizes, unit)))
            elif one.role == "in" and served.get(unit) in one.spaces and sizes[unit] > 1:
                found.append((row.name, axis, torch.arange(length_of(one, sizes) // sizes[unit])))
    return found


def _is_heard(candidate: Candidate, reading: Places, sizes: Mapping[str, int], unit: str, observed: Observed) -> bool:
    written = _written(candidate, unit, sizes, observed.parameters)
    state = {name: observed.parameters[name].detach().clone() for name, _, _ in written}
    for name, axis, places in written:
        state[name].index_fill_(axis, places, 0.0)
    with observed.replaced(state):
        gradients = observed.gradients(0)
    return any(
        float(gradients[name].index_select(axis, places).abs().max()) > NOTHING * float(gradients[name].abs().max())
        for name, axis, places in reading
    )


def _best(
    found: Sequence[Candidate], reading: Places, unit: str, sizes: Mapping[str, int], observed: Observed
) -> list[Candidate]:
    """Of what silences a unit that which does so in proportion, as values and the one factor of gated units do."""
    if len(found) < 2:
        return list(found)
    gradients = observed.gradients(1)
    read = _effect(reading, gradients, observed)
    linear = [
        one
        for one in found
        if abs(_effect(_written(one, unit, sizes, observed.parameters), gradients, observed) - read) <= 1e-7 * abs(read)
    ]
    return (linear or list(found))[:1]


def _effect(places: Places, gradients: Mapping[str, torch.Tensor], observed: Observed) -> float:
    return sum(
        float((gradients[name] * observed.parameters[name].detach()).index_select(axis, at).sum())
        for name, axis, at in places
    )
