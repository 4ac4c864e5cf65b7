"""Values of options out of their words: one of a few, a whole number, a size in bytes."""

from __future__ import annotations

import re
from typing import Any

from ckptgrow.errors import RequestError


def chosen(option: str, value: str, choices: tuple[str, ...]) -> Any:
    """A value out of a few; raises RequestError that names them."""
    if value not in choices:
        raise RequestError(f"{option} {value}: expected {' or '.join(choices)}")
    return value


def whole_number(option: str, value: str) -> int:
    """A whole number; raises RequestError otherwise."""
    try:
        return int(value)
    except ValueError as error:
        raise RequestError(f"{option} {value}: expected a whole number") from error


def byte_size(option: str, value: str) -> int:
    """Bytes from a number with a decimal unit, as 5GB; raises RequestError otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", value.strip().upper())
    if match is None or float(match[1]) == 0:
        raise RequestError(f"{option} {value}: expected a size as 5GB or 200MB")
    return int(float(match[1]) * 1000 ** " KMGT".index(match[2] or " "))
