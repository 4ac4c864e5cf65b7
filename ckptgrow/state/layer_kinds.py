"""Which layers of a stack have which block, where not all have the same."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, cast

from ckptgrow.errors import ConfigError
from ckptgrow.families.family import Family, Sparse
from ckptgrow.state.sizes import holds

Config = Mapping[str, object]


def layers_with(family: Family, config: Config, layers: str, num: int) -> frozenset[int]:
    """Which of `num` layers have a parameter, by its `Parameter.layers`.

    Raises ConfigError where these depend on a config list that has not one entry a layer.
    """
    everywhere = frozenset(range(num))
    if layers == "all":
        return everywhere
    if layers == "later":
        return everywhere - {0}
    if layers in ("last", "but last"):
        return frozenset({num - 1}) if layers == "last" else everywhere - {num - 1}
    if layers in ("dense", "sparse"):
        dense = dense_layers(family, config, num)
        return dense if layers == "dense" else everywhere - dense
    if "every " in layers:
        there = _periodic(config, family.periodic[layers.rpartition("every ")[2]], num)
        return everywhere - there if layers.startswith("but ") else there
    if " in " in f" {layers}":
        named = numbered_layers(config, layers.rsplit(maxsplit=1)[-1])
        return everywhere - named if layers.startswith("not ") else everywhere & named
    name, _, meant = layers.partition(" == ")
    kinds = config.get(name)
    if not isinstance(kinds, list | tuple) or len(cast(Collection[object], kinds)) != num:
        raise ConfigError(f"config list {name!r} is {repr(kinds)[:40]}, expected one entry for each of {num} layers")
    return frozenset(layer for layer, one in enumerate(cast(Sequence[object], kinds)) if one in meant.split(" or "))


def numbered_layers(config: Config, field: str) -> frozenset[int]:
    """The layers whose numbers a config list has; none where there is no list."""
    numbers = config.get(field)
    return frozenset(cast(Collection[int], numbers)) if isinstance(numbers, list | tuple) else frozenset()


def moved_numbers(family: Family, config: Config, sources: Sequence[int]) -> dict[str, Any]:
    """The lists of numbers, for layers that are, or are made from, the old ones `sources`."""
    named = {name: numbered_layers(config, name) for name in family.layer_numbers if config.get(name) is not None}
    return {name: [index for index, one in enumerate(sources) if one in old] for name, old in named.items()}


def dense_layers(family: Family, config: Config, num: int) -> frozenset[int]:
    """Which of `num` layers have a dense block where others have experts."""
    if family.sparse is None:
        return frozenset()
    return frozenset(layer for layer in range(num) if not _is_sparse(family.sparse, config, layer))


def moved_rules(family: Family, config: Config, sources: Sequence[int]) -> dict[str, Any]:
    """The fields that say by rules which layers are of which kind, for layers that are, or are made from, the old ones
    `sources`.

    Raises ConfigError where the config has no way of saying so.
    """
    return {**_moved_periods(family, config, sources), **_moved_sparse(family, config, sources)}


def _periodic(config: Config, fields: tuple[str, str], num: int) -> frozenset[int]:
    """The layers that come round: those whose number, divided by the period, leaves the offset."""
    period, offset = _number(config, fields[0], 1), _number(config, fields[1], 0)
    return frozenset(layer for layer in range(num) if period and layer % period == offset)


def _moved_periods(family: Family, config: Config, sources: Sequence[int]) -> dict[str, Any]:
    """The periods and offsets by which each layer has its source's kind, the shortest period first."""
    found: dict[str, Any] = {}
    num = len(sources)
    read = {one.layers.rpartition("every ")[2] for one in family.parameters if holds(one.when, config)}
    for kind, fields in family.periodic.items():
        if kind not in read:
            continue
        old = _periodic(config, fields, max(sources) + 1)
        wanted = frozenset(index for index, source in enumerate(sources) if source in old)
        pairs = ((period, offset) for period in range(1, num + 2) for offset in range(period))
        said = (dict(zip(fields, pair, strict=True)) for pair in pairs)
        new = next((one for one in said if _periodic(one, fields, num) == wanted), None)
        if new is None:
            raise ConfigError(
                f"{family.model_type} configs say which layers have {kind} by {' and '.join(fields)}, which cannot "
                f"say that layers {', '.join(map(str, sorted(wanted)))} of {num} have it; choose other ⟦layers⟧"
            )
        found |= new
    return found


def _moved_sparse(family: Family, config: Config, sources: Sequence[int]) -> dict[str, Any]:
    if family.sparse is None:
        return {}
    num_old = max(sources) + 1
    old = dense_layers(family, config, num_old)
    dense = frozenset(index for index, source in enumerate(sources) if source in old)
    for fields in _sayings(family.sparse, dense, len(sources)):
        if dense_layers(family, {**config, **fields}, len(sources)) == dense:
            return fields
    raise ConfigError(
        f"{family.model_type} configs say which layers have experts by {' and '.join(family.sparse.rules)}, which "
        f"cannot say that layers {', '.join(map(str, sorted(dense)))} of {len(sources)} have none; choose other "
        "⟦layers⟧"
    )


def check_kinds(family: Family, old: Config, new: Config, sources: Sequence[int]) -> None:
    """Raises ConfigError where a layer would have parameters that the one it is made from has not, or lack some."""
    num_old, num_new = max(sources) + 1, len(sources)
    ends = ("last", "but last")  # where the same parameter writes another space
    rows = [one for one in family.parameters if one.layers not in ends and holds(one.when, old)]
    for layers in dict.fromkeys(one.layers for one in rows):
        before, after = layers_with(family, old, layers, num_old), layers_with(family, new, layers, num_new)
        odd = [index for index, source in enumerate(sources) if (source in before) != (index in after)]
        if odd:
            raise ConfigError(
                f"layer {sources[odd[0]]} of {family.model_type} models has other parameters than layer {odd[0]} would "
                "have, which no new layer can be made from; choose other ⟦layers⟧"
            )


def _is_sparse(rules: Sparse, config: Config, layer: int) -> bool:
    numbers = config.get(rules.dense or "")
    listed = cast(Collection[object], numbers) if isinstance(numbers, list | tuple) else ()
    first, last = _number(config, rules.first, 0), _number(config, rules.last, layer)
    if rules.experts is not None and not config.get(rules.experts):
        return False
    return layer not in listed and (layer + 1) % (_number(config, rules.step, 1) or 1) == 0 and first <= layer <= last


def _number(config: Config, field: str | None, default: int) -> int:
    value = config.get(field or "")
    return value if isinstance(value, int) and value >= 0 else default


def _sayings(rules: Sparse, dense: Collection[int], num: int) -> Iterator[dict[str, Any]]:
    """Values of the fields that could say that these layers of `num` have no experts, the plainest first."""
    sparse = [layer for layer in range(num) if layer not in dense]
    ends: dict[str | None, Any] = {rules.first: min(sparse, default=num), rules.last: max(sparse, default=0)}
    if rules.dense is not None:
        ends = {rules.first: 0, rules.last: num - 1, rules.dense: sorted(dense)}
    for step in range(1, num + 1 if rules.step is not None else 2):
        yield {field: value for field, value in {**ends, rules.step: step}.items() if field is not None}
