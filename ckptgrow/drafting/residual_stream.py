"""Which part of the residual stream an axis lies in: the stream itself, what a norm makes of it, what one is made of.

normed      a gain writes it, matrices alone read it
final       the same, and the head reads it
branch      a matrix writes it, and a norm behind makes the function blind for its scale
residual    all else
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ckptgrow.drafting.drafted_rows import DraftedRow
from ckptgrow.drafting.observed_model import Observed
from ckptgrow.drafting.roles import readers_of

RESIDUAL = (("residual",),)
BLIND = 1e-4  # of the largest effect of a scale: a norm's ε lets some of it through
Rows = Sequence[DraftedRow]
Effects = Sequence[Mapping[str, torch.Tensor]]


def name_parts(rows: Rows, observed: Observed, effects: Effects, head: str) -> None:
    """Names the parts of the residual stream in all rows (in place); `head`: the parameter that writes the logits."""
    by_name = {row.name: row for row in rows}
    reading: dict[str, str] = {}
    for row in rows:
        if row.kind in ("gain", "1+gain") and row.axes[0] == RESIDUAL:
            bias = by_name.get(row.bias_name or "")
            found = _readers(row, bias, rows, observed, effects)
            space = _space(found, head)
            reading |= dict.fromkeys(found, space)
            for one in (row, bias):
                if one is not None:
                    one.axes[0] = ((space,),)
    for row in rows:
        for axis, parts in enumerate(row.axes):
            if parts != RESIDUAL or row.kind in ("gain", "1+gain", "bias"):
                continue
            if row.role(axis) == "in":
                row.axes[axis] = ((reading.get(row.name, "residual"),),)
            elif _is_blind(row, by_name.get(row.bias_name or ""), observed, effects):
                row.axes[axis] = (("branch",),)
                bias = by_name.get(row.bias_name or "")
                if bias is not None:
                    bias.axes[0] = (("branch",),)


def _readers(
    row: DraftedRow, bias: DraftedRow | None, rows: Rows, observed: Observed, effects: Effects
) -> tuple[str, ...]:
    """The matrices that alone read what a gain writes, by the names of their first parameters."""
    in_layer = "{layer}" in row.template
    layer = _layer(row.name, row.template)
    candidates: list[tuple[str, int]] = []
    owners: dict[str, str] = {}
    for other in rows:
        for axis, parts in enumerate(other.axes):
            if other.kind in ("gain", "1+gain", "bias") or parts != RESIDUAL or other.role(axis) != "in":
                continue
            for name in other.names:
                if not in_layer or "{layer}" not in other.template or _layer(name, other.template) == layer:
                    candidates.append((name, axis))
                    owners[name] = other.name
    found = readers_of(observed, row.name, bias.name if bias is not None else None, candidates, effects)
    return tuple(dict.fromkeys(owners[name] for name in found.readers)) if found is not None else ()


def _layer(name: str, template: str) -> str:
    beginning = template.partition("{layer}")[0]
    return name.removeprefix(beginning).partition(".")[0]


def _space(readers: Sequence[str], head: str) -> str:
    if not readers:
        return "residual"
    return "final" if set(readers) == {head} else "normed"


def _is_blind(row: DraftedRow, bias: DraftedRow | None, observed: Observed, effects: Effects) -> bool:
    """Whether no logit sees the scale of what a matrix writes."""
    if row.read is not None and row.role(row.read) == "in" and row.spaces & {"vocab", "position"}:
        return False
    names = [row.name, *([bias.name] if bias is not None and bias.axes[0] == RESIDUAL else [])]
    values = {name: observed.parameters[name].detach() for name in names}
    together = [sum(float((one[name] * values[name]).sum()) for name in names) for one in effects]
    apart = max(float((one[name] * values[name]).abs().sum()) for name in names for one in effects)
    return apart > 0 and max(map(abs, together)) <= BLIND * apart
