"""Pickles as other versions of Python write them."""

from __future__ import annotations

import enum
import pickle
from typing import Any


class ByName(pickle.Pickler):
    """Writes members of enums as Python 3.11.0 to 3.11.3 do, by their names."""

    def reducer_override(self, obj: Any) -> Any:
        return (getattr, (type(obj), obj.name)) if isinstance(obj, enum.Enum) else NotImplemented
