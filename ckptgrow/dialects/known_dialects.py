"""Which dialects there are, by name."""

from __future__ import annotations

from collections.abc import Mapping

from ckptgrow.dialects.dialect import Dialect
from ckptgrow.dialects.tables import litgpt, nanogpt
from ckptgrow.errors import RequestError

DIALECTS: Mapping[str, Dialect] = {one.name: one for one in (*nanogpt.DIALECTS, *litgpt.DIALECTS)}


def dialect_called(name: str) -> Dialect:
    """A dialect by its name; raises RequestError where there is none."""
    if name not in DIALECTS:
        raise RequestError(f"⟦dialect {name}⟧: expected one of {', '.join(sorted(DIALECTS))}")
    return DIALECTS[name]
