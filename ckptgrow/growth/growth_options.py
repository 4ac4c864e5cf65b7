"""The options of every growth, by their names and types: recipes are checked by them before anything heavy is imported.

They are those of the functions in `growths`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from typing_extensions import TypedDict

from ckptgrow.choices import (
    ExpertSeparation,
    Fresh,
    GrowthOperator,
    How,
    NewLayer,
    NewPositions,
    Place,
    RowInit,
    Separation,
)


class WidthOptions(TypedDict, total=False):
    """Of `ckptgrow.width`."""

    factor: int | None
    ffn: int | None
    heads: int | None
    kv_heads: int | None
    hidden: int | None
    how: How
    separate: Separation | None
    noise: float | Literal["auto"]
    spread: float | None
    fresh: Fresh | None
    seed: int


class DepthOptions(TypedDict, total=False):
    """Of `ckptgrow.depth`."""

    factor: int | None
    layers: Sequence[int] | None
    every: int | None
    place: Place
    new: NewLayer
    seed: int


class VocabOptions(TypedDict, total=False):
    """Of `ckptgrow.vocab`."""

    size: int | None
    tokenizer: str | None
    pad_to: int
    init: RowInit | None
    old_tokenizer: str | None


class PositionsOptions(TypedDict, total=False):
    """Of `ckptgrow.positions`."""

    size: int
    new: NewPositions


class ExpertsOptions(TypedDict, total=False):
    """Of `ckptgrow.experts`."""

    experts: int
    experts_per_token: int | None
    to: str | None
    shards: int | None
    router_noise: float | None
    separate: ExpertSeparation | None
    spread: float | None
    seed: int


GROWTH_OPTIONS: Mapping[GrowthOperator, type] = {
    "width": WidthOptions,
    "depth": DepthOptions,
    "vocab": VocabOptions,
    "positions": PositionsOptions,
    "experts": ExpertsOptions,
}
