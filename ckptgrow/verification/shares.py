"""How unequally a weight is shared out among the copies that read it, as the numbers show.

Where one of c copies has (1 − s)/c + s of a weight and each other one (1 − s)/c, the entries' squared distances from
even shares sum to s² (1 − 1/c) of the weight's square, whichever copy is the drawn one. So s is measured without
knowing the draws, and every entry must then be one of the two shares.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from ckptgrow.verification.pair import Link
from ckptgrow.verification.tensor_blocks import BlockTensors, exact_sum, row_sums


@dataclass(frozen=True, eq=False)
class Shared:
    """Some entries of a grown tensor, what they share out, and among how many copies.

    `found`: the entries; `whole`: in the same shape, the whole weight of each; `counts`: the number of copies that
    share it, broadcastable; all float64.
    """

    found: torch.Tensor
    whole: torch.Tensor
    counts: torch.Tensor

    @classmethod
    def of(cls, part: BlockTensors, factor: float) -> Shared:
        """Those of a block whose grown weights sum to the small ones times a factor."""
        return cls(part.grown, part.link.spread(part.small * factor), counts_of(part.link))

    def distance(self, strength: float) -> torch.Tensor:
        """How far every entry is from the nearer one of its two shares."""
        least = (1 - strength) / self.counts
        nearer = (self.found - self.whole * least).abs_()
        return torch.minimum(nearer, (self.found - self.whole * (least + strength)).abs_(), out=nearer)


def counts_of(link: Link) -> torch.Tensor:
    """The number of copies of each entry's input, broadcastable over the grown tensor."""
    counts = torch.ones([1] * len(link.growths), dtype=torch.float64)
    for axis in link.in_axes:
        counts = counts * link.along(axis, link.growths[axis].num_copies.astype(np.float64))
    return counts


def measured_strength(parts: Iterable[Shared]) -> float:
    """The s of the module's head over a tensor's parts; 0 where nothing has copies."""
    squares, expected = list[float](), list[float]()
    for part in parts:
        left = (part.found - part.whole / part.counts).masked_fill_(part.counts <= 1, 0.0)
        squares += row_sums(left.square_())
        expected += row_sums((part.whole * torch.sqrt((1 - 1 / part.counts) / part.counts)).square_())
    total = exact_sum(expected)
    return math.sqrt(exact_sum(squares) / total) if total > 0 else 0.0
