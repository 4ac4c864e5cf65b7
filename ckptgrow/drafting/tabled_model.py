"""An observed model and its table: which row every parameter is, and how its units are relabelled by the table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ckptgrow.drafting.observed_model import Observed
from ckptgrow.drafting.relabelling import Orders, drawn_order, relabelled
from ckptgrow.drafting.roles import NOTHING, scale_effects
from ckptgrow.families.family import Family
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.claim import Claimed, claim

SERVED = (("kv_heads", "heads"), ("groups", "state_heads"), ("key_heads", "value_heads"))  # the first by the second


@dataclass(frozen=True, eq=False)
class Tabled:
    """An observed model and what a table says of it."""

    observed: Observed
    architecture: Architecture

    @property
    def family(self) -> Family:
        """The table."""
        return self.architecture.family

    @cached_property
    def rows(self) -> dict[str, Claimed]:
        """What the table says of every parameter, by the parameter's name; raises ClaimError where it says nothing."""
        shapes = {name: tuple(one.shape) for name, one in self.observed.model.state_dict().items()}
        found = claim(self.architecture, shapes)
        return {one.name: one for one in found.tensors if one.name in self.observed.parameters}

    def root(self, space: str) -> str:
        """The space of which another one is the size, by definition."""
        same = self.family.sizes[space].same
        has_own = self.family.sizes[space].config is not None
        return space if same is None or has_own else self.root(same)

    @cached_property
    def roots(self) -> dict[str, list[str]]:
        """The spaces that are relabelled together, by their first."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for space in self.family.sizes:
            found[self.root(space)].append(space)
        return dict(found)

    @cached_property
    def effects(self) -> Sequence[Mapping[str, torch.Tensor]]:
        """Gradients of some draws."""
        return scale_effects(self.observed)

    @cached_property
    def unseen(self) -> set[str]:
        """Parameters on which no logit depends: the biases of keys, say."""
        largest = max(float(one.abs().max()) for drawn in self.effects for one in drawn.values())
        return {
            name
            for name in self.observed.parameters
            if all(float(one[name].abs().max()) <= NOTHING * largest for one in self.effects)
        }


def orders_for(tabled: Tabled, root: str, seed: int = 0) -> Orders:
    """New orders of a space's units, and of the units that follow them."""
    draw, sizes = np.random.default_rng(seed), tabled.architecture.sizes
    order = drawn_order(sizes[root], draw)
    dealt = {size.ratio for size in tabled.family.sizes.values()}  # where a tensor has parts by what is served
    for outer, inner in SERVED:
        if not {outer, inner} <= sizes.keys() or root not in (tabled.root(outer), tabled.root(inner)):
            continue
        members = sizes[inner] // sizes[outer]
        if root == outer or sizes[inner] == sizes[outer] or (inner, outer) in dealt:
            groups = order if root == outer else drawn_order(sizes[outer], draw)
            blocks = (groups[:, None] * members + np.arange(members)).ravel()
            return {**dict.fromkeys(tabled.roots[outer], groups), **dict.fromkeys(tabled.roots[inner], blocks)}
        within = drawn_order(members, draw)
        blocks = (np.arange(sizes[outer])[:, None] * members + within).ravel()
        return dict.fromkeys(tabled.roots[inner], blocks)
    return dict.fromkeys(tabled.roots[root], order)


def occurrences(tabled: Tabled, orders: Orders) -> list[tuple[str, int]]:
    """Every row of the table that these orders concern, with the axis."""
    found = (
        (row.pattern, position)
        for row in tabled.rows.values()
        for position, axis in enumerate(row.layout.axes)
        if axis.spaces & orders.keys()
    )
    return list(dict.fromkeys(found))


def relabelled_state(tabled: Tabled, orders: Orders, without: tuple[str, int] | None = None) -> dict[str, torch.Tensor]:
    """The parameters that follow the orders, but for one row's axis."""
    sizes = tabled.architecture.sizes
    found: dict[str, torch.Tensor] = {}
    for name, row in tabled.rows.items():
        if row.layout.spaces & orders.keys():
            left_out = (without[1],) if without is not None and row.pattern == without[0] else ()
            value = tabled.observed.parameters[name].detach()
            found[name] = relabelled(value, row.layout, sizes, orders, left_out)
    return found


def bias_of(name: str, rows: Mapping[str, Claimed]) -> str | None:
    """The name of the bias beside a weight, if there is one."""
    bias = name.removesuffix("weight") + "bias"
    return bias if bias in rows and bias != name else None
