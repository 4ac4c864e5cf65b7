"""Refuses growths of which a family's table says that they would not be exact."""

from __future__ import annotations

from ckptgrow.errors import RequestError
from ckptgrow.state.architecture import Architecture


def check_exact(old: Architecture, *operators: str) -> None:
    """Raises RequestError where the family's table refuses one of these operators for this config."""
    for refusal in old.family.refusals:
        if refusal.operator in operators and old.holds(refusal.when):
            raise RequestError(
                f"{old.where}: {old.family.model_type} cannot grow in {refusal.operator} exactly: {refusal.reason}"
            )
