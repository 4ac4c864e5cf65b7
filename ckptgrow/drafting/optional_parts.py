"""Which switches of a config bring parameters: found by turning each, without memory for any model."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from ckptgrow.drafting.tiny_config import NOT_SIZES, Tiny
from ckptgrow.errors import ConfigError


@dataclass(frozen=True)
class OptionalParts:
    """A tiny model with all optional parameters that it can have at once.

    `conditions`: of each such parameter, by name, what a table says of when it is there; `tie`: the switch that makes
    the head the embedding; `untold`: switches that change shapes, or bring what cannot be there with the rest.
    """

    subject: Tiny
    conditions: Mapping[str, str]
    tie: str | None
    untold: tuple[str, ...]


TIE = "tie_word_embeddings"


def with_all_parts(
    subject: Tiny, runs: Callable[[Tiny], bool], sees: Callable[[Tiny, Collection[str]], bool]
) -> OptionalParts:
    """Turns every switch of a config by itself, and leaves those on that bring parameters and take none."""
    untold: list[str] = []
    tie = TIE if TIE in subject.own_fields else None
    fullest = subject if tie is None else Tiny(subject.model_type, subject.head, {**subject.fields, TIE: False})
    for field in _switches(fullest):
        try:
            turned = Tiny(fullest.model_type, fullest.head, {**fullest.fields, field: not fullest.own_fields[field]})
            before, after = fullest.shapes(), turned.shapes()
        except ConfigError:
            continue
        if any(after[name] != before[name] for name in before.keys() & after.keys()):
            untold.append(field)
        elif after.keys() > before.keys():
            if not _is_running(turned, runs) or _are_numbered(after.keys() - before.keys()):
                untold.append(field)
            elif sees(turned, after.keys() - before.keys()):
                fullest = turned
        elif after.keys() - before.keys():
            untold.append(field)
    return OptionalParts(fullest, _conditions(fullest), tie, tuple(untold))


def _are_numbered(names: Collection[str]) -> bool:
    """Whether names have a number beside their layer's, as those of a norm for each head do."""
    return any(len(re.findall(r"\.\d+(?=\.)", name)) > 1 for name in names)


def _switches(subject: Tiny) -> list[str]:
    return [
        field
        for field, value in subject.own_fields.items()
        if isinstance(value, bool) and field != TIE and not NOT_SIZES.search(field) and field != "is_encoder_decoder"
    ]


def _conditions(fullest: Tiny) -> dict[str, str]:
    """For every parameter that a switch takes away, the state of the switches in which it is there."""
    own = fullest.shapes()
    found: dict[str, str] = {}
    for field in _switches(fullest):
        value = fullest.own_fields[field]
        try:
            without = own.keys() - fullest.shapes(**{field: not value}).keys()
        except ConfigError:
            continue
        for name in without:
            word = field if value else f"not {field}"
            found[name] = f"{found[name]} and {word}" if name in found else word
    return found


def _is_running(subject: Tiny, runs: Callable[[Tiny], bool]) -> bool:
    try:
        return runs(subject)
    except ConfigError:
        return False
