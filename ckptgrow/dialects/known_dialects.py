"""Which dialects there are, by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ckptgrow.dialects.dialect import Dialect
from ckptgrow.dialects.dialect_files import SUFFIXES, read_dialect
from ckptgrow.dialects.tables import (
    litgpt,
    litgpt_falcon,
    litgpt_gemma,
    litgpt_mixtures,
    llm_foundry,
    megatron,
    nanogpt,
    olmo_core,
    torchtitan,
    torchtune,
)
from ckptgrow.errors import RequestError

TABLES = (
    nanogpt,
    litgpt,
    litgpt_falcon,
    litgpt_gemma,
    litgpt_mixtures,
    torchtitan,
    olmo_core,
    torchtune,
    llm_foundry,
    megatron,
)
DIALECTS: Mapping[str, Dialect] = {one.name: one for table in TABLES for one in table.DIALECTS}


def dialect_called(name: str) -> Dialect:
    """A dialect by its name, or the user's own in a file; raises RequestError where there is none."""
    if name in DIALECTS:
        return DIALECTS[name]
    if Path(name).suffix in SUFFIXES:
        return read_dialect(Path(name))
    raise RequestError(f"⟦dialect {name}⟧: expected one of {', '.join(sorted(DIALECTS))}, or a file that says one")
