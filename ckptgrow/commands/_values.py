"""Reads the values of options: words out of a few, a whole number, a size in bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ckptgrow.errors import RequestError


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


def whole_number(option: str, value: str) -> int:
    """Reads a whole number; raises RequestError for anything else."""
    try:
        return int(value)
    except ValueError as error:
        raise RequestError(f"{option} {value}: expected a whole number") from error


def byte_size(option: str, value: str) -> int:
    """Reads a number of bytes with a decimal unit, as 5GB; raises RequestError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", value.strip().upper())
    if match is None or float(match[1]) == 0:
        raise RequestError(f"{option} {value}: expected a size as 5GB or 200MB")
    return int(float(match[1]) * 1000 ** " KMGT".index(match[2] or " "))
