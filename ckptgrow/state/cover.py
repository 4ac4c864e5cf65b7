"""Whether a dialect's rows cover the names of a file: each name by one row, each row in every layer.

Names may stand under one prefix and inside wrappers (`_orig_mod`); a second whole set under another prefix (an average
of the weights) is a second instance. How the file spells a row is kept, for writing.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ckptgrow.dialects.dialect import LAYER, Dialect, Row
from ckptgrow.errors import listing
from ckptgrow.state.wrappers import bare_names, with_part


@dataclass(frozen=True)
class Instance:
    """One whole set of the dialect's names: how the file spells each row that it has (`{layer}` left open), and what
    stands before transformers' names of it.
    """

    spelling: Mapping[str, str]
    prefix: str = ""

    def name(self, row: Row, layer: int | None) -> str:
        """The trainer's name of a row in a layer."""
        spelt = self.spelling[row.theirs]
        return spelt if layer is None else spelt.replace(LAYER, str(layer))

    def has(self, row: Row) -> bool:
        """Whether the trainer's file has the row."""
        return row.theirs in self.spelling


@dataclass(frozen=True)
class Cover:
    """A dialect that covers all names of a file, whose layers are `num_layers`; the model's instance comes first."""

    dialect: Dialect
    instances: tuple[Instance, ...]
    num_layers: int


@dataclass
class _Found:
    layers: dict[str, set[int | None]] = field(default_factory=lambda: defaultdict(set))
    spelling: dict[str, str] = field(default_factory=dict[str, str])


def cover_of(dialect: Dialect, names: Collection[str]) -> Cover | str:
    """The cover of a file's names by a dialect, or why there is none."""
    regexes = [(row, _regex(row.theirs)) for row in dialect.rows]
    found: dict[str, _Found] = defaultdict(_Found)
    strangers: list[str] = []
    for name, bare in bare_names(names).items():
        match = next(((row, one) for row, regex in regexes if (one := regex.fullmatch(bare))), None)
        if match is None:
            strangers.append(name)
            continue
        row, one = match
        layer = one.groupdict().get("layer")
        instance = found[one["prefix"]]
        instance.layers[row.theirs].add(None if layer is None else int(layer))
        instance.spelling[row.theirs] = name if layer is None else with_part(name, bare, one.start("layer"), LAYER)
    if strangers:
        return f"it has no {listing(strangers, 2)}"
    for prefix, instance in found.items():
        numbers = {layer for layers in instance.layers.values() for layer in layers if layer is not None}
        everywhere: set[int | None] = set(range(max(numbers, default=-1) + 1))
        for row in dialect.rows:
            lacking = (everywhere if LAYER in row.theirs else {None}) - instance.layers.get(row.theirs, set())
            if lacking and not (row.or_zero and row.theirs not in instance.layers):
                return f"the file has no {prefix}{row.theirs.replace(LAYER, str(min(lacking, key=str)))}"
    first = next(iter(found), "")
    numbers = [layer for layers in found[first].layers.values() for layer in layers if layer is not None]
    instances = [Instance(one.spelling, "" if prefix == first else prefix) for prefix, one in found.items()]
    return Cover(dialect, tuple(instances), max(numbers, default=-1) + 1)


def names_in_module_order(rows: Sequence[Row], num_layers: int) -> list[str]:
    """All names: rows before the layers, layer after layer, rows behind them."""
    inside = [index for index, row in enumerate(rows) if LAYER in row.theirs]
    before, layer, behind = rows[: inside[0]], rows[inside[0] : inside[-1] + 1], rows[inside[-1] + 1 :]
    layers = [row.theirs.replace(LAYER, str(index)) for index in range(num_layers) for row in layer]
    return [*(row.theirs for row in before), *layers, *(row.theirs for row in behind)]


def _regex(pattern: str) -> re.Pattern[str]:
    body = re.escape(pattern).replace(re.escape(LAYER), r"(?P<layer>0|[1-9]\d*)")
    return re.compile(rf"(?P<prefix>(?:[^.]+\.)*?){body}")
