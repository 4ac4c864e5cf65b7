"""Every leaf of a tree of plain values: changed, removed, and with something beside it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

Keys = tuple[Any, ...]


@dataclass(frozen=True)
class Tampering:
    """One change of a tree; `name` says which."""

    name: str
    apply: Callable[[Any], None]

    def of(self, tree: Any) -> Any:
        """A copy of a tree with the change."""
        changed = copy.deepcopy(tree)
        self.apply(changed)
        return changed


def tamperings(tree: Any, skip: Callable[[Keys, Any], bool] = lambda keys, value: False) -> Iterator[Tampering]:
    """All changes, but of what `skip` names and what lies in it."""
    for keys, value in nodes(tree, (), skip):
        if keys and not isinstance(value, dict | list | tuple):
            yield Tampering(f"changed {keys}", lambda tree, keys=keys, value=value: put(tree, keys, another(value)))
        if keys and not isinstance(at(tree, keys[:-1]), tuple):
            yield Tampering(f"removed {keys}", lambda tree, keys=keys: remove(tree, keys))
        if isinstance(value, dict):
            yield Tampering(f"added to {keys}", lambda tree, keys=keys: at(tree, keys).update(added=1))
        elif isinstance(value, list):
            yield Tampering(f"added to {keys}", lambda tree, keys=keys: _extend(at(tree, keys)))


def nodes(tree: Any, keys: Keys, skip: Callable[[Keys, Any], bool]) -> Iterator[tuple[Keys, Any]]:
    if skip(keys, tree):
        return
    yield keys, tree
    entries: Any = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    for key, value in entries:
        yield from nodes(value, (*keys, key), skip)


def at(tree: Any, keys: Keys) -> Any:
    for key in keys:
        tree = tree[key]
    return tree


def put(tree: Any, keys: Keys, value: Any) -> None:
    parent = at(tree, keys[:-1])
    if isinstance(parent, tuple):
        entries = list(parent)
        entries[keys[-1]] = value
        put(tree, keys[:-1], tuple(entries))
    else:
        parent[keys[-1]] = value


def remove(tree: Any, keys: Keys) -> None:
    del at(tree, keys[:-1])[keys[-1]]


def another(value: Any) -> Any:
    """A value of the same type that is another."""
    if isinstance(value, torch.Tensor):
        return value + 1 if value.dtype != torch.bool else ~value
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 2 + 3 if value < 1e300 else 1.0
    return f"{value}x" if isinstance(value, str) else 1


def _extend(values: list[Any]) -> None:
    values.append(copy.deepcopy(values[-1]) if values else 1)
