"""State trees: nested dicts, lists and plain values whose tensors are lazy."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from ckptgrow.checkpoints.opaque import Opaque
from ckptgrow.checkpoints.tensors import LazyTensor

Leaf = TypeVar("Leaf")
Keys = tuple[object, ...]


def map_leaves(tree: Any, kind: type[Leaf], change: Callable[[Leaf], object]) -> Any:
    """The same tree with every leaf of a kind replaced by `change(leaf)`; containers are new, their types the same."""
    if isinstance(tree, kind):
        return change(tree)
    if isinstance(tree, dict):
        entries = ((key, map_leaves(value, kind, change)) for key, value in tree.items())
        kind_of_tree = next((one for one in (OrderedDict, Counter) if isinstance(tree, one)), dict)
        return kind_of_tree(dict(entries))
    if isinstance(tree, list):
        return [map_leaves(value, kind, change) for value in tree]
    if isinstance(tree, tuple) and not hasattr(tree, "_fields"):
        return tuple(map_leaves(value, kind, change) for value in tree)
    if isinstance(tree, Namespace):
        return Namespace(**{key: map_leaves(value, kind, change) for key, value in vars(tree).items()})
    return tree


def tensors_in(tree: Any) -> Iterator[tuple[Keys, LazyTensor]]:
    """Every tensor of a tree with the keys that lead to it, in order."""
    yield from _tensors_in(tree, (), set())


def _tensors_in(tree: Any, path: Keys, opaque_seen: set[int]) -> Iterator[tuple[Keys, LazyTensor]]:
    if isinstance(tree, LazyTensor) and not isinstance(tree, type):
        yield path, tree
        return
    if isinstance(tree, Opaque):  # these may refer to each other in circles
        if id(tree) in opaque_seen:
            return
        opaque_seen.add(id(tree))
    for key, value in _children(tree):
        yield from _tensors_in(value, (*path, key), opaque_seen)


def dicts_in(tree: Any, path: Keys = ()) -> Iterator[tuple[Keys, dict[Any, Any]]]:
    """Every dict below the top of a tree with the keys that lead to it, outer ones first."""
    if isinstance(tree, dict) and path:
        yield path, cast(dict[Any, Any], tree)
    if isinstance(tree, dict | list | tuple | Namespace):
        for key, value in _children(tree):
            yield from dicts_in(value, (*path, key))


def path_text(path: Keys) -> str:
    """Keys as a user would write them.

    >>> path_text(("callbacks", "EMA", 0))
    "callbacks['EMA'][0]"
    """
    first, *others = path
    return str(first) + "".join(f"[{key!r}]" for key in others)


def _children(tree: Any) -> Iterator[tuple[object, Any]]:
    if isinstance(tree, dict):
        yield from tree.items()
    elif isinstance(tree, list | tuple):
        yield from enumerate(tree)
    elif isinstance(tree, Namespace):
        yield from vars(tree).items()
    elif isinstance(tree, Opaque):
        yield from tree.parts()
