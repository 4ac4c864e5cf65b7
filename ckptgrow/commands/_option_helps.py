"""What the options of a command do, for the schemas of files that have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints


def helps_of(command: Callable[..., Any]) -> dict[str, str]:
    """The help of every option and argument, by its Python name."""
    return {
        option: str(one.help)
        for option, hint in get_type_hints(command, include_extras=True).items()
        for one in getattr(hint, "__metadata__", ())
        if getattr(one, "help", None)
    }
