"""Which layers of a stack have another block than the rest."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import cast

from ckptgrow.families.family import Family


def dense_layers(family: Family, config: Mapping[str, object], num: int) -> frozenset[int]:
    """Which of `num` layers have a dense block where others have experts."""
    if family.sparse is None:
        return frozenset()
    step, numbers = config.get(family.sparse.step), config.get(family.sparse.dense)
    every = step if isinstance(step, int) and step > 0 else 1
    listed = cast(Collection[object], numbers) if isinstance(numbers, list | tuple) else ()
    return frozenset(layer for layer in range(num) if layer in listed or (layer + 1) % every)
