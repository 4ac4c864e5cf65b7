"""What a growth does, apart from any checkpoint: how each space grows, and what each new layer is made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ckptgrow.choices import FreshMomentRule, Separation
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.growth_log import OperatorRecord
from ckptgrow.spaces.gather import BlockWeights, TensorGrowth, tile
from ckptgrow.spaces.growth import Growth
from ckptgrow.spaces.layers import Layer, LayerKind
from ckptgrow.spaces.layout import Layout
from ckptgrow.state.claim import Claimed
from ckptgrow.state.opening import TrainingState

RESIDUAL = "residual"


def as_it_is(old: TrainingState) -> TrainingState:
    """The state as it is."""
    return old


def nothing_follows(old: Checkpoint) -> Checkpoint:
    """The checkpoint as it is."""
    return old


@dataclass(frozen=True)
class Routers:
    """How a mixture's routers begin: with normal draws of a standard deviation, one row for all `shards` experts that
    together are one dense block.
    """

    deviation: float
    shards: int


@dataclass(frozen=True, kw_only=True)
class Operator:
    """A growth operator on a whole model.

    `growths`: by space; `layers`: one entry for each new layer; `config`: the grown model's; `trapped`: whether
    training keeps the copies equal; `record`: what the history keeps.
    """

    growths: Mapping[str, Growth]
    layers: Sequence[Layer]
    config: Mapping[str, Any]
    trapped: bool
    rho: float  # steps before over steps after, at equal loss, for a step that is set automatically
    record: OperatorRecord
    block_weights: BlockWeights = tile
    separate: Separation = "none"  # what tells the copies of a space apart (`spaces.split`, `spaces.noise`)
    noise: float = 0.0  # in units of each matrix's root mean square
    spread: float = 0.0  # of a split: for two copies, the shares' distance from ½
    seed: int = 0
    fresh_moments: FreshMomentRule | None = None  # of entries that copy nothing; None: as the user asks
    restates: Callable[[TrainingState], TrainingState] = as_it_is  # as what the old state grows
    routers: Routers | None = None  # how new ones begin; None: as copies of the old rows
    follows: Callable[[Checkpoint], Checkpoint] = nothing_follows  # what else of the old checkpoint changes, as files
    is_of_config: bool = False  # it changes the config alone
    notes: Sequence[str] = ()  # sentences for the user
    _by_layout: dict[Layout, TensorGrowth] = field(default_factory=dict[Layout, TensorGrowth], init=False, repr=False)

    def tensor_growth(self, claimed: Claimed) -> TensorGrowth:
        """How one claimed tensor grows; all tensors of one layout share one object."""
        if claimed.layout not in self._by_layout:
            self._by_layout[claimed.layout] = TensorGrowth.of(claimed.layout, self.growths)
        return self._by_layout[claimed.layout]


def is_zero_in(kind: LayerKind, claimed: Claimed) -> bool:
    """Whether a tensor of a new layer of this kind is zero.

    zero-output: what writes the residual stream. zero-norm: every gain and every bias of the block, those of the
    projections too, or they leak through. random: every bias.
    """
    if kind == "random":
        return claimed.layout.kind == "bias"
    if kind == "zero-output":
        return RESIDUAL in claimed.layout.written
    return kind == "zero-norm" and claimed.layout.kind in ("gain", "bias")
