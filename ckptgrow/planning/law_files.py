"""Reads laws by name, or from the small YAML or JSON files that `ckptgrow plan fit` writes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ckptgrow.errors import DataError, RequestError, listing, reason_of
from ckptgrow.planning.laws import LAWS, Law

REQUIRED = ("measure", "size_scale", "size_exponent", "data_scale", "data_exponent")
OPTIONAL = ("floor", "batch_scale", "batch_exponent", "smallest_fitted", "largest_fitted")
MORE = ("standard_errors", "fit", "draws")  # what `plan fit` writes besides
DRAWN = ("size_scale", "size_exponent", "data_scale", "data_exponent", "floor")  # in a row of draws
MOST_DRAWS = 100  # in a file
MEASURES = ("steps", "tokens")


def law_of(value: str) -> Law:
    """A built-in law by its name, or one from a file.

    Raises RequestError where there is neither, and DataError for a file that is not a law.
    """
    if value in LAWS:
        return LAWS[value]
    path = Path(value)
    if not path.is_file():
        raise RequestError(f"⟦law {value}⟧: is not a file, expected one or {', '.join(sorted(LAWS))}")
    return read_law(path)


def read_law(path: Path) -> Law:
    """Reads a law from a file; raises DataError where it is malformed."""
    tree = _tree(path)
    known = {*REQUIRED, *OPTIONAL, "name"}
    missing = [name for name in REQUIRED if name not in tree]
    if missing:
        raise DataError(f"{path}: has no {listing(missing)}, expected a law with {', '.join(REQUIRED)}")
    if tree["measure"] not in MEASURES:
        raise DataError(f"{path}: measure is {tree['measure']!r}, expected steps or tokens")
    numbers = {name: _number(path, name, tree[name]) for name in (*REQUIRED[1:], *OPTIONAL) if name in tree}
    if tree["measure"] == "steps" and not {"batch_scale", "batch_exponent"} <= set(numbers):
        raise DataError(f"{path}: counts steps, expected batch_scale and batch_exponent of its critical batch size too")
    unknown = [name for name in tree if name not in known and name not in MORE]
    if unknown:
        raise DataError(f"{path}: has {listing(unknown)}, expected none but {', '.join(sorted(known))}")
    return Law(
        name=str(tree.get("name", path.stem)), measure=tree["measure"], floor=numbers.pop("floor", 0.0), **numbers
    )


def draws_of(laws: Sequence[Law]) -> list[list[float]]:
    """The constants of resampled laws as rows, evenly chosen, for a file."""
    return [[getattr(one, name) for name in DRAWN] for one in laws[:: max(1, -(-len(laws) // MOST_DRAWS))]]


def laws_of(value: str) -> tuple[Law, ...]:
    """A law as `law_of` gives it, and behind it those of the resamples that its file has."""
    law = law_of(value)
    if value in LAWS:
        return (law,)
    path = Path(value)
    rows = _tree(path).get("draws", [])
    if not isinstance(rows, list) or any(not isinstance(row, list) or len(row) != len(DRAWN) for row in rows):
        raise DataError(f"{path}: draws are not rows of {len(DRAWN)} numbers, expected those of `ckptgrow plan fit`")
    draws = [{name: _number(path, name, one) for name, one in zip(DRAWN, row, strict=True)} for row in rows]
    return (law, *(replace(law, **one) for one in draws))


def write_law(path: Path, law: Law, more: Mapping[str, object]) -> None:
    """Writes a law with more values: as JSON if the name ends in .json, else as YAML."""
    tree = {**law.options(), **more}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
        return
    path.write_text(yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=2**20), encoding="utf-8")


def _tree(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read ({reason_of(error)}), expected a law that `ckptgrow plan fit` wrote"
        ) from error
    try:
        tree = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path}: is neither YAML nor JSON, expected a law that `ckptgrow plan fit` wrote") from error
    if not isinstance(tree, dict):
        raise DataError(f"{path}: is a {type(tree).__name__}, expected a law with {', '.join(REQUIRED)}")
    return tree


def _number(path: Path, name: str, value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    lowest = 0.0 if name == "floor" else math.nextafter(0.0, 1.0)
    if not math.isfinite(number) or number < lowest or isinstance(value, bool):
        raise DataError(f"{path}: {name} is {value!r}, expected a number above zero")
    return number
