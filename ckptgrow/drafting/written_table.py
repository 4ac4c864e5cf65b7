"""A new family's table, as a file: drafted, tried, and written with what could not be told."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ckptgrow.drafting.drafting import draft
from ckptgrow.drafting.table_file import table_text
from ckptgrow.drafting.trial import Tried, tried
from ckptgrow.errors import ConfigError, RequestError
from ckptgrow.families.registry import FAMILIES
from ckptgrow.storage.files.atomic import appearing
from ckptgrow.storage.files.file_signs import TABLES, check_replaceable
from ckptgrow.storage.files.json_files import config_in_file, write_text


@dataclass(frozen=True, kw_only=True)
class WrittenTable:
    """A drafted table's file, and what is to be said of it."""

    path: Path
    model_type: str
    num_rows: int
    tried: tuple[Tried, ...]
    unsure: tuple[str, ...]
    has_table: bool  # whether the package, or something installed, has one already

    def to_json(self) -> dict[str, Any]:
        """What the command prints under `--json`."""
        return {
            "out": str(self.path),
            "family": self.model_type,
            "rows": self.num_rows,
            "growths": {one.operator: one.fault or "exact" for one in self.tried},
            "unsure": list(self.unsure),
            "has_table": self.has_table,
        }


def write_new_table(
    model_type: str,
    target: Path | None = None,
    *,
    like: Path | None = None,
    force: bool = False,
    tell: Callable[[str], None] = lambda stage: None,
) -> WrittenTable:
    """Drafts the table of a transformers model type, tries it, and writes it as a Python file that has FAMILY.

    `like`: a config.json of the type, or a directory with one, whose switches and kinds of layers are taken.

    Raises ConfigError for a type that transformers has not or of which no tiny model runs, RequestError for a target
    that is there already or is no Python file.
    """
    path = target or Path(f"{re.sub(r'[^a-z0-9]', '_', model_type)}_family.py")
    if path.suffix not in TABLES:
        raise RequestError(f"{path}: is no name of a Python file, expected one that ends with .py")
    if path.exists() and not force:
        raise RequestError(f"{path}: exists already, expected a new name; give another one, or ⟦force⟧")
    check_replaceable(path, TABLES[path.suffix])
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        drafted, found = tried(draft(model_type, like=_config(like, model_type), tell=tell), tell)
    finally:
        logging.set_verbosity(verbosity)
    with appearing(path, force=force) as partial:
        write_text(partial, table_text(drafted, found))
    return WrittenTable(
        path=path,
        model_type=model_type,
        num_rows=len(drafted.family.parameters),
        tried=found,
        unsure=drafted.unsure,
        has_table=model_type in FAMILIES,
    )


def _config(path: Path | None, model_type: str) -> dict[str, Any]:
    """The fields of a config that differ from nothing: all that a file says."""
    if path is None:
        return {}
    found = config_in_file(path)
    if found.get("model_type") != model_type:
        raise ConfigError(f"{path}: is no config of {model_type}, expected one whose model_type says so")
    return {key: value for key, value in found.items() if key not in ("model_type", "architectures", "dtype")}
