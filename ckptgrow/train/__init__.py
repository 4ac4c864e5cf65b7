"""Training and going on training what was grown, on Lightning's public interface.

`parameter_groups`, `new_entries` and `NewRates` serve scripts that train in bare PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptgrow.train.additions import new_entries
    from ckptgrow.train.groups import parameter_groups
    from ckptgrow.train.new_rates import NewRates

__all__ = ["NewRates", "new_entries", "parameter_groups"]

_PLACES = {"NewRates": "new_rates", "new_entries": "additions", "parameter_groups": "groups"}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'ckptgrow.train' has no attribute {name!r}")
    return getattr(import_module(f"ckptgrow.train.{_PLACES[name]}"), name)
