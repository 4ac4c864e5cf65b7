"""Writes the options in the library's messages as the command line spells them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptgrow.errors import Message, with_options


def spelled(message: str) -> str:
    """A message of the library with its options as flags; other texts as they are.

    >>> spelled(Message("copies come whole, expected ⟦factor K⟧, or ⟦how pad⟧ with it"))
    'copies come whole, expected --factor K, or --how pad with it'
    """
    return with_options(message.marked, _as_flag) if isinstance(message, Message) else message


def spelled_in(tree: Any) -> Any:
    """A tree of dicts and lists in which every message is spelled so."""
    if isinstance(tree, Mapping):
        return {key: spelled_in(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(spelled_in(value) for value in tree)
    return spelled(tree) if isinstance(tree, str) else tree


def _as_flag(name: str, value: str | None) -> str:
    flag = f"--{name.replace('_', '-')}"
    return flag if value is None else f"{flag} {value}"
