"""The kind of file or directory that a conversion to a trainer's form writes, and which families have such a form."""

from __future__ import annotations

from ckptgrow.dialects.dialect import Dialect
from ckptgrow.dialects.known_dialects import DIALECTS


def kind_of(to: str) -> str:
    """The kind that a conversion writes."""
    if to == "composer":
        return "torch"
    homes = [one.home for one in _dialects(to) if one.home is not None]
    return homes[0].kind if homes else to


def families_of(to: str) -> tuple[str, ...]:
    """The families for which a trainer has names of its own; none where every family is written."""
    return tuple(sorted({name for one in _dialects(to) for name in one.model_types}))


def _dialects(to: str) -> list[Dialect]:
    return [one for one in DIALECTS.values() if one.home is not None and one.trainer.lower() == to]
