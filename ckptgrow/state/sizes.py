"""The sizes of a model's spaces, and the conditions of its family's table, read from its config.

Errors say what is wrong with the config; its place is put before them by `Architecture`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import cast

from ckptgrow.errors import ConfigError
from ckptgrow.families.family import Family, Size
from ckptgrow.ranges import LARGEST_SIZE, MOST_LAYERS

Config = Mapping[str, object]
_SizeOf = Callable[[str], int]
AUTO = "auto"  # what some configs say of a size that follows from others


def sizes_of(family: Family, config: Config) -> dict[str, int]:
    """The size of every space of the table.

    Raises ConfigError where a field is missing or no whole number above zero.
    """
    sizes: dict[str, int] = {}
    for space in family.sizes:
        _resolve(space, family, config, sizes)
    return sizes


def num_layers(family: Family, config: Config) -> int:
    """The number of layers, of the deepest stack where there are several.

    Raises ConfigError where the field is missing or no whole number above zero.
    """
    return max(_counted(config, field) for field in {family.num_layers, *family.stacks.values()})


def stack_layers(family: Family, config: Config, name: str) -> int:
    """The number of layers in the stack that a parameter of the table stands in; raises ConfigError as `num_layers`."""
    fields = (field for beginning, field in family.stacks.items() if name.startswith(beginning))
    return _counted(config, next(fields, family.num_layers))


def is_tied(family: Family, config: Config) -> bool:
    """Whether the head is the embedding's tensor."""
    return family.tie is not None and bool(config.get(family.tie.config, family.tie.default))


def holds(condition: str | None, config: Config) -> bool:
    """Whether a table's condition holds in a config; no condition always does."""
    if " and " in (condition or ""):
        return all(holds(part, config) for part in str(condition).split(" and "))
    match (condition or "").split():
        case []:
            return True
        case ["not", field]:
            return not config.get(field)
        case [field, "==", other]:
            return config.get(field) == _value(other, config)
        case [field, "!=", other]:
            return config.get(field) != _value(other, config)
        case _:
            return bool(config.get(condition or ""))


def fields_in(condition: str | None) -> set[str]:
    """The config fields that a condition reads."""
    return {word for word in (condition or "").split() if word.isidentifier() and word not in ("not", "and")}


def _resolve(space: str, family: Family, config: Config, sizes: dict[str, int]) -> int:
    if space in sizes:
        return sizes[space]

    def of(other: str) -> int:
        return _resolve(other, family, config, sizes)

    size = family.sizes[space]
    if size.is_optional and not config.get(size.config or ""):
        sizes[space] = 0
    elif size.config is not None and config.get(size.config) not in (None, AUTO):
        sizes[space] = _rounded(family, config, size.config, _whole(config, size.config))
    else:
        sizes[space] = _derived(space, size, of)
    return sizes[space]


def _rounded(family: Family, config: Config, field: str, value: int) -> int:
    """The size that the model makes of a field's value."""
    rule = family.rounding
    if rule is None or rule.field != field or not holds(rule.when, config):
        return value
    multiplier = config.get(rule.multiplier)
    return rule.of(value, multiplier if isinstance(multiplier, int | float) else None, _whole(config, rule.multiple))


def _derived(space: str, size: Size, of: _SizeOf) -> int:
    if size.same is not None:
        return of(size.same)
    if size.times is not None:
        return size.times[0] * of(size.times[1])
    if size.share is not None:
        if of(size.share[1]) % size.share[0]:
            raise ConfigError(f"{size.share[1]} {of(size.share[1])} is not a multiple of {size.share[0]}")
        return of(size.share[1]) // size.share[0]
    if size.sum:
        return sum(of(name) for name in size.sum)
    if size.product:
        return math.prod(of(name) for name in size.product)
    ratio = size.ratio or size.squared_ratio
    if ratio is not None:
        whole, part = (of(name) for name in ratio)
        if whole % part:
            raise ConfigError(f"{ratio[0]} {whole} is not a multiple of {ratio[1]} {part}")
        return whole // part if size.ratio else (whole // part) ** 2
    raise ConfigError(f"the config has no {size.config!r}, expected the size of {space!r} there")


def _value(word: str, config: Config) -> object:
    """What a word of a condition stands for: a number, the value of the field of this name, or itself."""
    return int(word) if word.isdigit() else config.get(word, word)


def _counted(config: Config, field: str) -> int:
    """A number of layers that a field says, or the length of the list of their kinds that it is."""
    value = config.get(field)
    if isinstance(value, list | tuple):
        return _whole({field: len(cast(list[object], value))}, field, MOST_LAYERS)
    return _whole(config, field, MOST_LAYERS)


def _whole(config: Config, field: str, most: int = LARGEST_SIZE) -> int:
    value = config.get(field)
    if isinstance(value, Mapping):
        return len(cast(Mapping[object, object], value))  # labels by their numbers
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ConfigError(f"config field {field!r} is {repr(value)[:40]}, expected a whole number from 1 to {most}")
    return value
