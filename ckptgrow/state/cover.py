"""Whether a dialect's rows cover the names of a file: each name by one row, each row in every layer.

Names may stand under one prefix and inside wrappers (`_orig_mod`); a second whole set under another prefix (an average
of the weights) is a second instance. How the file spells a row is kept, for writing.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Literal

from ckptgrow.dialects.dialect import EXPERT, LAYER, Dialect, Row
from ckptgrow.errors import listing
from ckptgrow.state.wrappers import bare_names, with_part


@dataclass(frozen=True)
class Instance:
    """One whole set of the dialect's names: how the file spells each row that it has (`{layer}` left open), and what
    stands before transformers' names of it.
    """

    spelling: Mapping[str, str]
    prefix: str = ""

    def name(self, pattern: str, layer: int | None, expert: int | None = None) -> str:
        """The trainer's name of one of a row's tensors in a layer, and of an expert there."""
        return numbered(self.spelling[pattern], layer, expert)

    def has(self, row: Row) -> bool:
        """Whether the trainer's file has the row."""
        return row.theirs in self.spelling


@dataclass(frozen=True)
class Cover:
    """A dialect that covers all names of a file, whose layers are `num_layers`, each of so many experts; the model's
    instance comes first.
    """

    dialect: Dialect
    instances: tuple[Instance, ...]
    num_layers: int
    num_experts: int = 0


Place = tuple[int | None, int | None]  # a tensor's layer and expert


@dataclass
class _Found:
    places: dict[str, set[Place]] = field(default_factory=lambda: defaultdict(set))
    spelling: dict[str, str] = field(default_factory=dict[str, str])

    def count(self, axis: Literal[0, 1]) -> int:
        """The number of layers, or of experts."""
        numbers = [place[axis] for places in self.places.values() for place in places]
        return 1 + max((one for one in numbers if one is not None), default=-1)

    def lacking(self, pattern: str) -> set[Place]:
        """The layers and experts that have no such tensor."""
        layers = range(self.count(0)) if LAYER in pattern else (None,)
        experts = range(self.count(1)) if EXPERT in pattern else (None,)
        return {*product(layers, experts)} - self.places.get(pattern, set())


def cover_of(dialect: Dialect, names: Collection[str]) -> Cover | str:
    """The cover of a file's names by a dialect, or why there is none."""
    regexes = [(pattern, _regex(pattern)) for row in dialect.rows for pattern in row.names]
    found: dict[str, _Found] = defaultdict(_Found)
    strangers: list[str] = []
    for name, bare in bare_names(names).items():
        match = next(((pattern, one) for pattern, regex in regexes if (one := regex.fullmatch(bare))), None)
        if match is None:
            strangers.append(name)
            continue
        pattern, one = match
        instance = found[one["prefix"]]
        numbers = {key: int(number) for key, number in one.groupdict().items() if key != "prefix"}
        instance.places[pattern].add((numbers.get("layer"), numbers.get("expert")))
        instance.spelling[pattern] = _opened(name, bare, one)
    if strangers:
        return f"it has no {listing(strangers, 2)}"
    for prefix, instance in found.items():
        for row in dialect.rows:
            for pattern in row.names:
                lacking = instance.lacking(pattern)
                if lacking and not (row.or_zero and pattern not in instance.places):
                    return f"the file has no {prefix}{numbered(pattern, *min(lacking, key=str))}"
    if not found:
        return "it has no tensors"
    first = next(iter(found))
    instances = [Instance(one.spelling, "" if prefix == first else prefix) for prefix, one in found.items()]
    return Cover(dialect, tuple(instances), found[first].count(0), found[first].count(1))


def spelt_by(names: Collection[str], cover: Cover) -> Cover:
    """The cover with what an optimizer that calls parameters by name calls those that it alone has."""
    regexes = [(pattern, _regex(pattern)) for row in cover.dialect.optimizer_rows for pattern in row.names]
    spelling: dict[str, str] = {}
    for name, bare in bare_names(names).items() if regexes else ():
        for pattern, regex in regexes:
            if (one := regex.fullmatch(bare)) is not None:
                spelling[pattern] = _opened(name, bare, one)
    first = cover.instances[0]
    return replace(cover, instances=(replace(first, spelling={**spelling, **first.spelling}), *cover.instances[1:]))


def numbered(pattern: str, layer: int | None, expert: int | None = None) -> str:
    """A name with the numbers of its layer and expert, where it is of one."""
    name = pattern if layer is None else pattern.replace(LAYER, str(layer))
    return name if expert is None else name.replace(EXPERT, str(expert))


def names_in_module_order(rows: Sequence[Row], num_layers: int, num_experts: int = 0) -> list[str]:
    """All names: rows before the layers, layer after layer, rows behind them; and so with a layer's experts."""
    patterns = [name for row in rows for name in row.names]
    return _repeated(_repeated(patterns, EXPERT, num_experts), LAYER, num_layers)


def _repeated(patterns: Sequence[str], key: str, count: int) -> list[str]:
    """Patterns of which those from the first to the last with the key stand there for each of its numbers."""
    inside = [index for index, pattern in enumerate(patterns) if key in pattern]
    if not inside:
        return list(patterns)
    first, last = inside[0], inside[-1] + 1
    between = [one.replace(key, str(number)) for number in range(count) for one in patterns[first:last]]
    return [*patterns[:first], *between, *patterns[last:]]


def _opened(name: str, bare: str, match: re.Match[str]) -> str:
    """The name with its numbers left open."""
    for key, word in (("expert", EXPERT), ("layer", LAYER)):  # the last number first, so that the other stays in place
        if key in match.re.groupindex:
            name = with_part(name, bare, match.start(key), word)
            bare = bare[: match.start(key)] + word + bare[match.end(key) :]
    return name


def _regex(pattern: str) -> re.Pattern[str]:
    body = re.escape(pattern)
    for key, word in (("layer", LAYER), ("expert", EXPERT)):
        body = body.replace(re.escape(word), rf"(?P<{key}>0|[1-9]\d*)")
    return re.compile(rf"(?P<prefix>(?:[^.]+\.)*?){body}")
