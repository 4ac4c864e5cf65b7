"""Small files of text: reads JSON up to a size, and writes any text through to the disk.

Configs of transformers have floats that JSON has not, ±∞ and NaN, as objects: {"__float__": "Infinity"}.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, cast

from ckptgrow.errors import CheckpointError, ConfigError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
TAG = "__float__"
TAGGED = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
LARGEST_JSON = 32 * 2**20  # bytes; parsed, they may take thirty times as many
LARGEST_LOG = 256 * 2**20  # bytes of a Trainer's state; a log of a million steps is smaller


def read_json(path: Path, largest: int = LARGEST_JSON) -> dict[str, Json]:
    """A JSON object; raises CheckpointError where the file holds none, or more than `largest` bytes."""
    if not path.is_file() or path.stat().st_size > largest:
        raise CheckpointError(f"{path}: is not a plain file of at most {largest} bytes, expected a JSON object")
    try:
        value: Json = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: is not JSON ({type(error).__name__}), expected an object; copy it again"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: is a {type(value).__name__}, expected a JSON object")
    return value


def write_json(path: Path, value: object, *, sort_keys: bool = False) -> None:
    """Writes a small file of JSON and flushes it to the disk."""
    write_text(path, json.dumps(value, indent=2, sort_keys=sort_keys) + "\n")


def read_config(path: Path) -> dict[str, Json]:
    """A config of transformers, its tagged floats as floats; raises CheckpointError as `read_json` does."""
    return cast("dict[str, Json]", _untagged(read_json(path)))


def config_in_file(path: Path) -> dict[str, Json]:
    """The config in a file of a user's, or in a directory's config.json; raises ConfigError where there is none."""
    file = path / "config.json" if path.is_dir() else path
    if not file.exists():
        raise ConfigError(f"{file}: no such file, expected a transformers config.json")
    try:
        return read_config(file)
    except CheckpointError as error:
        raise ConfigError(f"{error.message.marked} (a transformers config.json)") from error


def write_config(path: Path, config: Mapping[str, object]) -> None:
    """Writes a config as transformers does."""
    write_json(path, _tagged(config), sort_keys=True)


def _untagged(value: Json) -> Json:
    if isinstance(value, dict):
        if value.keys() == {TAG} and value[TAG] in TAGGED:
            return TAGGED[str(value[TAG])]
        return {key: _untagged(one) for key, one in value.items()}
    return [_untagged(one) for one in value] if isinstance(value, list) else value


def _tagged(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return {TAG: "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, Mapping):
        return {key: _tagged(one) for key, one in cast(Mapping[str, object], value).items()}
    return [_tagged(one) for one in cast(Sequence[object], value)] if isinstance(value, list | tuple) else value


def write_text(path: Path, text: str) -> None:
    """Writes a small file and flushes it to the disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
