"""State trees: nested dicts, lists and plain values whose tensors are lazy.

A `Tree` is what a file of torch's holds once it is read: whoever takes something out of it asks first what it is.
"""

from __future__ import annotations

from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from datetime import timedelta
from functools import reduce
from operator import getitem
from pathlib import PurePath
from typing import Any, TypeAlias, cast

import torch

from ckptgrow.storage.pickles.numpy_values import ArrayForm, array_in
from ckptgrow.storage.pickles.opaque import Opaque
from ckptgrow.storage.tensors import LazyTensor, is_lazy

Plain: TypeAlias = bool | int | float | complex | str | bytes | None
Leaf: TypeAlias = Plain | LazyTensor | Opaque | torch.dtype | torch.device | torch.Size | timedelta | PurePath
Tree: TypeAlias = "Leaf | Mapping[Any, Tree] | Sequence[Tree] | Set[Tree] | Namespace"
Keys = tuple[object, ...]


def map_leaves(tree: object, is_leaf: Callable[[object], bool], change: Callable[[Any], object]) -> Any:
    """The same tree with every such leaf replaced by `change(leaf)`; containers are new, their types the same, and
    what was in several places is so again.
    """
    done: dict[int, object] = {}

    def mapped(node: object) -> object:
        if is_leaf(node):
            return change(node)
        if not isinstance(node, dict | list | tuple | set | frozenset | Namespace):
            return node
        if id(node) not in done:
            done[id(node)] = rebuilt(node)
        return done[id(node)]

    def rebuilt(node: dict[object, object] | Iterable[object] | Namespace) -> object:
        if isinstance(node, dict):
            entries = {key: mapped(value) for key, value in node.items()}
            kind_of_tree = next((one for one in (OrderedDict, Counter) if isinstance(node, one)), dict)
            made = kind_of_tree(entries)
            if kind_of_tree is OrderedDict:  # a module's state dict has metadata
                vars(made).update({name: mapped(value) for name, value in vars(node).items()})
            return made
        if isinstance(node, Namespace):
            return Namespace(**{key: mapped(value) for key, value in vars(node).items()})
        if isinstance(node, torch.Size) or (isinstance(node, tuple) and hasattr(node, "_fields")):
            return node
        return next(one for one in (list, tuple, set, frozenset) if isinstance(node, one))(map(mapped, node))

    return mapped(tree)


def tensors_in(tree: object) -> Iterator[tuple[Keys, LazyTensor]]:
    """Every tensor of a tree with keys that lead to it, in order; containers in several places are looked into once."""
    for path, node in _nodes(tree, (), set()):
        if is_lazy(node):
            yield path, node


def _nodes(tree: object, path: Keys, seen: set[int]) -> Iterator[tuple[Keys, object]]:
    yield path, tree
    if isinstance(tree, dict | list | tuple | set | frozenset | Namespace | Opaque):
        if id(tree) in seen:  # the user's objects may also refer to each other in circles
            return
        seen.add(id(tree))
        for key, value in _children(tree):
            yield from _nodes(value, (*path, key), seen)


def dicts_in(tree: object) -> Iterator[tuple[Keys, Mapping[object, object]]]:
    """Every dict below the top of a tree, also an object's state, with keys that lead to it, outer ones first."""
    for path, node in _nodes(tree, (), set()):
        inner = node.state if isinstance(node, Opaque) else node
        if isinstance(inner, dict) and path:
            yield path, inner


def arrays_in(tree: object) -> Iterator[tuple[Keys, ArrayForm]]:
    """Every NumPy array of a tree, as far as it is known, with keys that lead to it."""
    for path, node in _nodes(tree, (), set()):
        form = array_in(node)
        if form is not None:
            yield path, form


def path_text(path: Keys) -> str:
    """Keys as a user would write them.

    >>> path_text(("callbacks", "EMA", 0))
    "callbacks['EMA'][0]"
    """
    first, *others = path
    return str(first) + "".join(f"[{key!r}]" for key in others)


def _children(tree: object) -> Iterator[tuple[object, object]]:
    if isinstance(tree, dict):
        yield from tree.items()
    elif isinstance(tree, list | tuple | set | frozenset):
        yield from enumerate(tree)
    elif isinstance(tree, Namespace):
        yield from vars(tree).items()
    elif isinstance(tree, Opaque):
        yield from tree.parts()


def node_at(tree: Any, path: Keys) -> Any:
    """What lies at the end of some keys, None where they lead nowhere.

    >>> node_at({"state": [{"lr": 1.0}]}, ("state", 0, "lr"))
    1.0
    """
    try:
        return reduce(getitem, path, tree)
    except (KeyError, IndexError, TypeError):
        return None


def with_node(tree: Any, path: Keys, value: Any) -> Any:
    """The same tree with `value` at the end of some keys; what lies beside them is shared, not copied.

    >>> with_node({"state": {"step": 1}, "seed": 0}, ("state", "step"), 2)
    {'state': {'step': 2}, 'seed': 0}
    """
    if not path:
        return value
    first, *others = path
    if isinstance(tree, list | tuple):
        changed = list(cast(Sequence[Any], tree))
        changed[cast(int, first)] = with_node(changed[cast(int, first)], tuple(others), value)
        return changed if isinstance(tree, list) else tuple(changed)
    entries = {**cast(dict[object, Any], tree or {})}
    entries[first] = with_node(entries.get(first), tuple(others), value)
    return OrderedDict(entries) if isinstance(tree, OrderedDict) else entries
