"""Whether a table says only what the package understands, and does not contradict itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import get_args

from ckptgrow.errors import ConfigError, listing
from ckptgrow.families.family import Family, Head, Parameter, Size
from ckptgrow.spaces.layout import parse

OPERATORS = (  # what a table may refuse
    *("width", "residual", "heads", "kv_heads", "ffn", "hidden", "experts", "positions", "vocab"),
    *("depth", "zero-output", "zero-norm", "ode", "copy", "random"),
    "tensors",  # nothing is done with a model some of whose tensors no row can say
)
CONDITION = re.compile(r"(not )?\w+|\w+ (==|!=) \w+", re.ASCII)
EVERYWHERE = ("all", "later", "last", "but last", "sparse", "dense")
OF_TASKS = ("labels", "pooled")  # spaces that the heads of tasks bring


def check_family(family: object) -> None:
    """Raises ConfigError, in one line that says where, for a table that is malformed."""
    if not isinstance(family, Family):
        raise ConfigError(f"a {type(family).__name__} is no table, expected a ckptgrow.families.Family")
    for found, expected in _faults(family):
        raise ConfigError(f"family {family.model_type!r}: {found}, expected {expected}")


def _faults(family: Family) -> Iterator[tuple[str, str]]:
    """What is found, and what was expected instead."""
    if not re.fullmatch(r"[\w.-]+", family.model_type):
        yield "its model_type is no name", "that of its config"
    if family.head not in get_args(Head):
        yield f"head {family.head!r}", f"one of {', '.join(get_args(Head))}"
    if "residual" not in family.sizes:
        yield "no space 'residual'", "the residual stream under this name"
    for space, size in family.sizes.items():
        yield from _faults_of_size(family, space, size)
    for one in family.parameters:
        yield from _faults_of_row(family, one, family.sizes)
    for task in family.tasks:
        for one in task.parameters:
            yield from _faults_of_row(family, one, (*family.sizes, *OF_TASKS))
    yield from _faults_of_names(family)
    for refusal in family.refusals:
        if refusal.operator not in OPERATORS:
            yield f"a refusal of {refusal.operator!r}", f"one of {', '.join(OPERATORS)}"
        yield from _faults_of_condition(refusal.when, f"the refusal of {refusal.operator}")


def _faults_of_size(family: Family, space: str, size: Size) -> Iterator[tuple[str, str]]:
    others = _others(size)
    unknown = [one for one in others if one not in family.sizes]
    if unknown:
        yield f"the size of {space!r} follows from {listing(unknown)}", "spaces of `sizes`"
    elif size.config is None and not others:
        yield f"the size of {space!r} says nothing", "a config field, or what it follows from"
    elif space in _followed(family, space):
        yield f"the size of {space!r} follows from itself", "a config field at the end"


def _others(size: Size) -> list[str]:
    """The spaces from which a size follows."""
    single = (size.same, size.times and size.times[1], size.share and size.share[1])
    several = (*size.sum, *size.product, *(size.ratio or ()), *(size.squared_ratio or ()))
    return [one for one in (*single, *several) if one is not None]


def _followed(family: Family, space: str) -> set[str]:
    """The spaces from which a size follows, one behind the other."""
    found: set[str] = set()
    left = [space]
    while left:
        name = left.pop()
        others = set(_others(family.sizes[name])) if name in family.sizes else set[str]()
        left += others - found
        found |= others
    return found


def _faults_of_row(family: Family, one: Parameter, spaces: object) -> Iterator[tuple[str, str]]:
    try:
        unknown = parse(one.layout).spaces - set(spaces)  # pyright: ignore[reportArgumentType]
    except ValueError as error:
        yield f"{one.name}: {error}", "a layout as in `ckptgrow.spaces.layout`"
        return
    if unknown:
        yield f"{one.name}: layout {one.layout!r} names {listing(unknown)}", "spaces of `sizes`"
    yield from _faults_of_condition(one.when, one.name)
    field, _, kind = one.layers.partition(" == ")
    is_of_kind = bool(kind) and field in family.layer_lists
    is_numbered = re.sub(r"^(not )?in ", "", one.layers) in family.layer_numbers
    is_periodic = re.sub(r"^(but )?every ", "", one.layers) in family.periodic
    if one.layers not in EVERYWHERE and not (is_of_kind or is_numbered or is_periodic):
        yield (
            f"{one.name}: layers {one.layers!r}",
            f"{', '.join(EVERYWHERE)}, LIST == KIND of a list in layer_lists, in LIST of one in layer_numbers, or "
            "every KIND of one in periodic",
        )
    if one.layers in ("sparse", "dense") and family.sparse is None:
        yield f"{one.name}: layers {one.layers!r} without `sparse`", "the rule that says which these are"
    if one.layers != "all" and "{layer}" not in one.name:
        yield f"{one.name}: layers {one.layers!r}", "{layer} in a name that not every layer has"


def _faults_of_condition(when: str | None, where: str) -> Iterator[tuple[str, str]]:
    for part in (when or "nothing").split(" and "):
        if not CONDITION.fullmatch(part):
            yield f"{where}: condition {when!r}", "FIELD, not FIELD, FIELD == OTHER or FIELD != OTHER, joined by and"


def _faults_of_names(family: Family) -> Iterator[tuple[str, str]]:
    names = {one.name for one in family.parameters}
    rows = [(one.name, one.when, one.layers) for one in family.parameters]
    twice = {row[0] for row in rows if rows.count(row) > 1}
    if twice:
        yield f"{listing(twice)} stands twice under the same condition", "one row of each"
    if not any("{layer}" in name for name in names):
        yield "no name has {layer}", "the rows of a layer"
    said = {
        "tie": () if family.tie is None else (family.tie.head, family.tie.embedding),
        "twins": tuple(name for _, name in (*family.twins, *family.twins_if_tied)),
        "pieces": tuple(one.name for one in family.pieces),
        "untrained": family.untrained,
    }
    if family.choice.bias not in (None, *family.buffers, *names):
        yield f"choice names {family.choice.bias}", "a name of `parameters` or of `buffers`"
    for field, mentioned in said.items():
        unknown = set(mentioned) - names
        if unknown:
            yield f"{field} names {listing(unknown)}", "names of `parameters`"
    for field in ("shrunken", "made"):
        unknown = set(getattr(family, field)) - set(family.sizes)
        if unknown:
            yield f"{field} names {listing(unknown)}", "spaces of `sizes`"
