"""The words that name prepared data: one directory that `ckptgrow data` wrote, or several, each with its weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ckptgrow.errors import DataError, RequestError

META = "meta.json"  # says what the token files beside it hold
EXAMPLE = "DIR, or DIR:WEIGHT,DIR:WEIGHT with weights above 0"


def directories_in(data: Path | str) -> list[tuple[Path, float]]:
    """The directories, and the weight of each: one directory, or several by commas, as A:0.7,B:0.3.

    Raises RequestError for weights that are none, and for a directory that is named twice.

    >>> directories_in("A:0.7,B:0.3")
    [(PosixPath('A'), 0.7), (PosixPath('B'), 0.3)]
    """
    text = str(data)
    if Path(text).exists() or not set(":,") & set(text):
        return [(Path(text), 1.0)]
    found = [_weighted(text, part) for part in text.split(",")]
    resolved = [directory.resolve() for directory, _ in found]
    for number, directory in enumerate(resolved):
        if directory in resolved[:number]:
            raise RequestError(f"⟦data {text}⟧: names {found[number][0]} twice, expected each source once")
    return found


def spelled(weighted: Sequence[tuple[Path, float]]) -> str:
    """The words of which `directories_in` makes these.

    >>> spelled([(Path("A"), 0.7), (Path("B"), 0.3)])
    'A:0.7,B:0.3'
    """
    if len(weighted) == 1:
        return str(weighted[0][0])
    return ",".join(f"{directory}:{weight!r}" for directory, weight in weighted)


def _weighted(text: str, part: str) -> tuple[Path, float]:
    name, colon, told = part.rpartition(":")
    try:
        weight = float(told) if colon and name else math.nan
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise RequestError(f"⟦data {text}⟧: has the part {part!r}, expected {EXAMPLE}")
    return Path(name), weight


def not_prepared(directory: Path) -> DataError:
    """The error of a directory without META."""
    found = f"has no {META}" if directory.exists() else "no such directory"
    return DataError(f"{directory}: {found}, expected what `ckptgrow data` writes")
