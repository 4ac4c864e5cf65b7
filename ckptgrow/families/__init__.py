"""Families of architectures as tables of data, and what a table may say.

from ckptgrow.families import Family, Parameter, Size, register

register(Family(model_type="mine", …))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptgrow.families.family import Family, InPieces, Padding, Parameter, Refusal, Size, Sparse, TaskHead, Tie
    from ckptgrow.families.registry import register

__all__ = ["Family", "InPieces", "Padding", "Parameter", "Refusal", "Size", "Sparse", "TaskHead", "Tie", "register"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'ckptgrow.families' has no attribute {name!r}")
    home = "registry" if name == "register" else "family"
    return getattr(import_module(f"ckptgrow.families.{home}"), name)
