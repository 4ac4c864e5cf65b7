"""Reads the values of options: words out of a few, a whole number, a size in bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer

from ckptgrow.errors import RequestError
from ckptgrow.ranges import RANGES

KINDS: Mapping[Any, str] = {int: "a whole number", float: "a number"}


def words_by_commas(value: str) -> tuple[str, ...]:
    """Words that commas separate."""
    return tuple(word.strip() for word in value.split(",") if word.strip())


def chosen_by_commas(option: str, value: str, choices: tuple[str, ...]) -> tuple[str, ...]:
    """Words out of a few, separated by commas; raises RequestError for others, which names the few."""
    words = words_by_commas(value)
    for word in words:
        if word not in choices:
            raise not_among(option, word, choices)
    return words


def not_among(option: str, value: str, choices: Sequence[str]) -> RequestError:
    """The error for a value that is not one of a few."""
    return RequestError(f"{option} {value}: expected {' or '.join(choices)}")


def refused_value(error: typer.BadParameter) -> RequestError | None:
    """Typer's error of a value that is none of an option's, in the words of all other refusals; None of another."""
    if error.param is None:
        return None
    option = next((name for name in error.param.opts if name.startswith("--")), error.param.opts[0])
    found = re.search(r"""(['"])(.*)\1 is not one of ('.*')\.$""", error.message)
    if found is not None:
        return not_among(option, found[2], [word.strip("'") for word in found[3].split(", ")])
    value = next((one["input"] for one in getattr(error.__cause__, "errors", list[Any])()), None)
    kind = getattr(error.param, "type_descriptor").annotation  # noqa: B009
    expected = RANGES[error.param.name].expected() if error.param.name in RANGES else KINDS.get(kind)
    return None if value is None or expected is None else RequestError(f"{option} {value}: expected {expected}")


def byte_size(option: str, value: str) -> int:
    """Reads a number of bytes with a decimal unit, as 5GB; raises RequestError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", value.strip().upper())
    if match is None or float(match[1]) == 0:
        raise RequestError(f"{option} {value}: expected a size as 5GB or 200MB")
    return int(float(match[1]) * 1000 ** " KMGT".index(match[2] or " "))


def checked_size(option: str) -> Callable[[str], str]:
    """Takes the text of a number of bytes; raises RequestError for anything else."""

    def checked(value: str) -> str:
        byte_size(option, value)
        return value

    return checked
