"""Rows made of other rows: the same parameters under other conditions, in other layers, behind norms, with biases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ckptgrow.families.family import Parameter


def in_branches(rows: Iterable[Parameter], field: str) -> Iterator[Parameter]:
    """The rows, where what writes the residual stream does so behind a norm if the config field `field` holds."""
    for row in rows:
        behind = replace(row, layout=row.layout.replace("residual", "branch"), when=_both(row.when, field))
        if behind.layout == row.layout:
            yield row
        else:
            yield from (behind, replace(row, when=_both(row.when, f"not {field}")))


def by_list(rows: Iterable[Parameter], field: str) -> tuple[Parameter, ...]:
    """The rows, where a config list `field` says which layers are dense and which sparse."""
    return tuple(
        replace(row, layers=f"{field} == {row.layers}") if row.layers in ("dense", "sparse") else row for row in rows
    )


def in_every_layer(rows: Iterable[Parameter]) -> tuple[Parameter, ...]:
    """The rows, where every layer has them."""
    return tuple(replace(row, layers="all") for row in rows)


def with_biases(rows: Iterable[Parameter], field: str) -> Iterator[Parameter]:
    """Rows of weights `out <- in`, each with its bias behind it if the config field `field` holds."""
    for row in rows:
        written, _, _ = row.layout.partition(" <- ")
        bias = replace(row, name=row.name.removesuffix("weight") + "bias", layout=written, when=_both(row.when, field))
        yield from (row, bias)


def _both(condition: str | None, other: str) -> str:
    return other if condition is None else f"{condition} and {other}"
