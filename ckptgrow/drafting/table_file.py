"""A drafted table as a Python file, which `--family FILE` and `families.register` accept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields
from typing import Any

from ckptgrow.drafting.drafting import Draft
from ckptgrow.drafting.trial import Tried
from ckptgrow.families.family import Family, Padding, Parameter, Refusal, Size, Sparse, Tie

NOT_TOLD = "# TO CORRECT: "
TYPES: tuple[type[Any], ...] = (Family, Padding, Parameter, Refusal, Size, Sparse, Tie)
PLACES = {Parameter: ("name", "layout"), Padding: ("norm", "eps"), Refusal: ("operator", "reason")}  # said by place
FIRST = ("model_type", "base_prefix", "num_layers", "head", "sizes", "parameters")


def table_text(draft: Draft, found: Sequence[Tried]) -> str:
    """The file's text: what could not be told, what growths showed, and the table."""
    name = type(draft.subject.on_meta()).__name__
    head = [
        f'"""{draft.family.model_type}: a draft, measured on a tiny {name} of transformers.',
        "",
        "What each axis is was found by relabelling units, by gradients and by zeros. Read it beside the model's code,",
        'and correct what is marked; `ckptgrow families check` measures it again."""',
        "",
    ]
    body = f"FAMILY = {_value(draft.family, 0)}\n"
    used = sorted(one.__name__ for one in TYPES if f"{one.__name__}(" in body)
    told = [f"{NOT_TOLD}{one}" for one in draft.unsure]
    shown = [f"# {one.operator}: {'exact' if one.fault is None else 'REFUSED, ' + one.fault}" for one in found]
    return "\n".join([*head, f"from ckptgrow.families import {', '.join(used)}", "", *told, *shown, "", body])


def _value(value: object, depth: int) -> str:
    """A value as Python code."""
    inside = "    " * (depth + 1)
    if isinstance(value, TYPES):
        words = list(_arguments(value, depth))
        line = f"{type(value).__name__}({', '.join(words)})"
        if isinstance(value, Family):
            return f"Family(\n{''.join(f'{inside}{word},{chr(10)}' for word in words)}{'    ' * depth})"
        return line
    if isinstance(value, dict):
        lines = [f"{inside}{_quoted(key)}: {_value(one, depth + 1)},\n" for key, one in value.items()]
        return f"{{\n{''.join(lines)}{'    ' * depth}}}" if lines else "{}"
    if isinstance(value, tuple) and any(isinstance(one, TYPES) for one in value):
        return f"(\n{''.join(f'{inside}{_value(one, depth + 1)},{chr(10)}' for one in value)}{'    ' * depth})"
    return _quoted(value)


def _quoted(value: object) -> str:
    """Strings in double quotes, as everywhere in the package."""
    if isinstance(value, str):
        return '"' + repr("'" + value)[2:-1].replace('"', '\\"') + '"' if "'" not in value else repr(value)
    if isinstance(value, tuple):
        inside = ", ".join(map(_quoted, value))
        return f"({inside}{',' * (len(value) == 1)})"
    return repr(value)


def _arguments(value: Any, depth: int) -> Iterator[str]:
    """The arguments that make a value, those left out that say what their defaults say."""
    by_place = PLACES.get(type(value), ())
    yield from (_value(getattr(value, name), depth) for name in by_place)
    order = {name: number for number, name in enumerate(FIRST)} if isinstance(value, Family) else {}
    for one in sorted(fields(value), key=lambda field: order.get(field.name, len(order))):
        if one.name in by_place:
            continue
        default = one.default if one.default is not MISSING else None
        if one.default_factory is not MISSING:
            default = one.default_factory()
        if one.name in order or getattr(value, one.name) != default:
            yield f"{one.name}={_value(getattr(value, one.name), depth + 1)}"
