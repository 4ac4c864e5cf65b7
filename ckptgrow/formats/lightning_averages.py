"""Averages of the weights that Lightning's callbacks keep in a `.ckpt`, and where the weights are then.

`StochasticWeightAveraging` keeps its average among the callbacks' states. `WeightAveraging`, and its exponential one,
put their average in the place of the weights, and the weights, which the optimizer moves, under a key of their own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ckptgrow.formats.checkpoint import Order
from ckptgrow.storage.tensors import LazyTensor, is_lazy
from ckptgrow.storage.tree import Keys, Tree, node_at, with_node

STATE, CURRENT, AVERAGING = "state_dict", "current_model_state", "averaging_state"
OF_CALLBACK = "average_model_state"


@dataclass(frozen=True)
class LightningPlaces:
    """Where the weights lie, and their averages."""

    model: Keys = (STATE,)
    averages: tuple[Keys, ...] = ()
    order: Order = "file"

    @classmethod
    def of(cls, tree: Mapping[str, Tree]) -> LightningPlaces:
        """The places in the tree of a `.ckpt`."""
        callbacks = tuple(_of_callbacks(tree))
        if _is_state(tree.get(CURRENT)) and AVERAGING in tree:
            return cls((CURRENT,), ((STATE,), *callbacks))
        return cls((STATE,), callbacks)

    def tensors(self, tree: Mapping[str, Tree]) -> dict[str, LazyTensor]:
        """The model's tensors by name, and behind them those of its averages, each under the keys that lead to it."""
        own: dict[str, LazyTensor] = dict(node_at(tree, self.model))
        for keys in self.averages:
            own |= {_prefix(keys) + name: tensor for name, tensor in node_at(tree, keys).items()}
        return own

    def without(self, tree: Mapping[str, Tree]) -> Mapping[str, Tree]:
        """The tree without these parts."""
        for keys in (self.model, *self.averages):
            tree = with_node(tree, keys, None)
        return tree

    def placed(self, tree: Mapping[str, Tree], tensors: Mapping[str, LazyTensor]) -> dict[str, Tree]:
        """The tree with tensors in their places again."""
        left, placed = dict(tensors), dict(tree)
        for keys in self.averages:
            own = {name: one for name, one in left.items() if name.startswith(_prefix(keys))}
            left = {name: one for name, one in left.items() if name not in own}
            bare: Any = OrderedDict((name.removeprefix(_prefix(keys)), one) for name, one in own.items())
            placed = with_node(placed, keys, bare)
        return with_node(placed, self.model, OrderedDict(left))


def _of_callbacks(tree: Mapping[str, Tree]) -> Iterator[Keys]:
    callbacks = tree.get("callbacks")
    for name, state in callbacks.items() if isinstance(callbacks, dict) else ():
        if isinstance(state, dict) and _is_state(state.get(OF_CALLBACK)):
            yield "callbacks", name, OF_CALLBACK


def _is_state(node: Tree) -> bool:
    return isinstance(node, dict) and bool(node) and all(map(is_lazy, node.values()))


def _prefix(keys: Keys) -> str:
    return "".join(f"{key}." for key in keys)
