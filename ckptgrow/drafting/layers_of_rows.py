"""Which layers have a parameter, in the words of tables, and in which stacks of layers a model's names stand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import cast

from ckptgrow.drafting.drafted_rows import DraftedRow, layer_of
from ckptgrow.drafting.tiny_config import Tiny, layer_lists_in
from ckptgrow.errors import ConfigError
from ckptgrow.families.family import Family, Sparse
from ckptgrow.state.layer_kinds import layers_with

# what transformers' configs call the rules of which layers have experts
RULES: Mapping[str, str] = {
    "first_k_dense_replace": "first",
    "num_dense_layers": "first",
    "decoder_sparse_step": "step",
    "mlp_only_layers": "dense",
    "moe_layer_start_index": "first",
    "moe_layer_end_index": "last",
}


def stacks_of(subject: Tiny) -> dict[str, str]:
    """The beginnings of names in each stack of layers, and the config field of how many these are."""
    own = subject.shapes()
    found: dict[str, str] = {}
    for field, value in subject.own_fields.items():
        if type(value) is not int or not re.search(r"layers?$", field) or value < 1:
            continue
        kinds = layer_lists_in(subject.own_fields, value)
        more = {field: value + 1, **{name: [*several, several[-1]] for name, several in kinds.items()}}
        try:
            new = subject.shapes(**more).keys() - own.keys()
        except ConfigError:
            continue
        for name in new:
            match = re.match(rf"(.*?\.){value}\.", name)
            if match is not None:
                found.setdefault(match[1], field)
    return found


def layer_lists(subject: Tiny, num_layers: str) -> dict[str, list[str]]:
    """The config lists with one word a layer."""
    return layer_lists_in(subject.own_fields, subject.own_fields.get(num_layers))


def number_lists(subject: Tiny, num_layers: str) -> tuple[str, ...]:
    """The config lists of numbers that transformers makes as long as there are layers, where nobody says them."""
    num = subject.own_fields.get(num_layers)
    if not isinstance(num, int):
        return ()
    words = {name: [*one, one[-1]] for name, one in layer_lists(subject, num_layers).items()}
    try:
        more = subject.config(**{num_layers: num + 1, **words}).to_dict()
    except ConfigError:
        return ()
    both = {name: (value, more.get(name)) for name, value in subject.own_fields.items() if name not in words}
    return tuple(name for name, (one, other) in both.items() if _are_numbers(one, num) and _are_numbers(other, num + 1))


def _are_numbers(value: object, length: int) -> bool:
    numbers = cast(Sequence[object], value) if isinstance(value, list) else []
    return len(numbers) == length and all(isinstance(one, int | float) for one in numbers)


def sparse_rule(subject: Tiny) -> Sparse | None:
    """The config's own rules of which layers have experts."""
    found = {word: field for field, word in RULES.items() if field in subject.own_fields}
    return Sparse(**found) if found else None


def sparse_layers(subject: Tiny, num_layers: str) -> frozenset[int] | None:
    """The layers that have experts by those rules; None where there are no rules."""
    rule, num = sparse_rule(subject), subject.own_fields.get(num_layers)
    if rule is None or not isinstance(num, int):
        return None
    family = Family(model_type="", parameters=(), sizes={}, num_layers="", base_prefix="", sparse=rule)
    return layers_with(family, subject.own_fields, "sparse", num)


def name_layers(
    rows: Sequence[DraftedRow], stacks: Sequence[str], lists: Mapping[str, list[str]], sparse: frozenset[int] | None
) -> list[DraftedRow]:
    """Says in each row (in place) which layers have it; returns the rows of which no words of a table tell."""
    numbers = [{layer for name in row.names if (layer := layer_of(name, stacks)) is not None} for row in rows]
    untold: list[DraftedRow] = []
    for row, own in zip(rows, numbers, strict=True):
        stack = row.template.partition("{layer}")[0]
        inside = (found for other, found in zip(rows, numbers, strict=True) if other.template.startswith(stack))
        whole = set[int]().union(*inside)
        if "{layer}" not in row.template or own == whole:
            continue
        said = _words(own, whole, lists, sparse)
        if said is None and own == {0} and len(row.names) == 1:  # in the first layer alone, for all of them
            row.template = row.names[0]
        elif said is None:
            untold.append(row)
        else:
            row.layers = said
    return untold


def _words(own: set[int], whole: set[int], lists: Mapping[str, list[str]], sparse: frozenset[int] | None) -> str | None:
    for name, kinds in lists.items():
        there = {kinds[layer] for layer in own if layer < len(kinds)}
        if len(kinds) == len(whole) and {layer for layer in whole if kinds[layer] in there} == own:
            return f"{name} == {' or '.join(sorted(there))}"
    if sparse is not None and own == set(sparse):
        return "sparse"
    if sparse is not None and own == whole - sparse:
        return "dense"
    if own == whole - {0}:
        return "later"
    return None
