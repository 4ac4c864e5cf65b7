"""Small files of YAML: of a bounded size read, with plain values alone, and written through to the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import yaml

from ckptgrow.errors import CheckpointError
from ckptgrow.storage.files.json_files import write_text

LARGEST_YAML = 2**20  # bytes; a config's, which takes PyYAML a second


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping; raises CheckpointError where the file holds none, or too much."""
    if not path.exists():
        raise CheckpointError(f"{path}: no such file, expected a YAML mapping")
    if not path.is_file() or path.stat().st_size > LARGEST_YAML:
        raise CheckpointError(f"{path}: is not a plain file of at most {LARGEST_YAML} bytes, expected a YAML mapping")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: is not YAML ({type(error).__name__}), expected a mapping") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: is a {type(value).__name__}, expected a YAML mapping")
    return cast(dict[str, Any], value)


def write_yaml(path: Path, value: object) -> None:
    """Writes a small file of YAML and flushes it to the disk."""
    write_text(path, yaml.safe_dump(value))
