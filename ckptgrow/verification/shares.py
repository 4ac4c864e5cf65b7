"""How unequally a weight is shared out among the copies that read it, as the numbers show.

Where one of c copies has (1 − s)/c + s of a weight and each other one (1 − s)/c, the entries' squared distances from
even shares sum to s² (1 − 1/c) of the weight's square, whichever copy is the drawn one. So s is measured without
knowing the draws, and every entry must then be one of the two shares.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from ckptgrow.verification.pair import Link
from ckptgrow.verification.tensor_blocks import BlockTensors, copies, exact_sum, row_sums


@dataclass(frozen=True, eq=False)
class Shared:
    """Some entries of a grown tensor, what they share out, and among how many copies.

    `found`: the entries, in the grown shape; `whole`: the whole weight of each, in the small shape; `counts`: the
    number of copies that share it, broadcastable over the small shape; all float64.
    """

    link: Link
    found: torch.Tensor
    whole: torch.Tensor
    counts: torch.Tensor

    @classmethod
    def of(cls, part: BlockTensors, factor: float) -> Shared:
        """Those of a block whose grown weights sum to the small ones times a factor."""
        return cls(part.link, part.grown, part.small * factor, counts_of(part.link))

    @cached_property
    def even(self) -> torch.Tensor:
        """Even shares, in the small shape."""
        return self.whole / self.counts

    @cached_property
    def are_copied(self) -> torch.Tensor:
        """Whether a weight is shared at all, in the small shape."""
        return (self.counts > 1).expand_as(self.whole)

    def beside(
        self, *small: torch.Tensor, grown: tuple[torch.Tensor, ...] = ()
    ) -> Iterator[tuple[torch.Tensor, tuple[torch.Tensor, ...]]]:
        """The entries in parts, each with the same entries of other `grown` tensors and with what it copies of `small`
        ones.
        """
        return ((found, tuple(others)) for found, *others in copies(self.link, (self.found, *grown), small))

    def distances(
        self, strength: float, *small: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, tuple[torch.Tensor, ...]]]:
        """In parts, how far every entry is from the nearer one of its two shares, with what it copies of others."""
        least = (1 - strength) / self.counts
        lower, upper = self.whole * least, self.whole * (least + strength)
        for found, (low, high, *others) in self.beside(lower, upper, *small):
            nearer = (found - low).abs_()
            yield torch.minimum(nearer, (found - high).abs_(), out=nearer), tuple(others)

    def from_even(self) -> Iterator[torch.Tensor]:
        """In parts, how far copies are from even shares, 0 for what is not shared."""
        if bool((self.counts > 1).all()):
            yield from (found - even for found, (even,) in self.beside(self.even))
            return
        for found, (even, are_copied) in self.beside(self.even, self.are_copied):
            yield (found - even).masked_fill_(~are_copied, 0.0)


def counts_of(link: Link) -> torch.Tensor:
    """The number of copies of each input, broadcastable over the small tensor."""
    counts = torch.ones([1] * len(link.growths), dtype=torch.float64)
    for axis in link.in_axes:
        growth = link.growths[axis]
        counts = counts * link.along(axis, np.bincount(growth.source, minlength=growth.num_old).astype(np.float64))
    return counts


@dataclass
class Strength:
    """The s of the module's head, of the parts that it has seen."""

    squares: list[float] = field(default_factory=list[float])
    expected: list[float] = field(default_factory=list[float])

    def see(self, part: Shared) -> None:
        """Takes a part of a tensor in."""
        for left in part.from_even():
            self.squares += row_sums(left.square_())
        squares = (part.whole * torch.sqrt((1 - 1 / part.counts) / part.counts)).square_()
        for _, (square,) in part.beside(squares):
            self.expected += row_sums(square)

    @property
    def value(self) -> float:
        """The measured s; 0 where nothing has copies."""
        total = exact_sum(self.expected)
        return math.sqrt(exact_sum(self.squares) / total) if total > 0 else 0.0


def measured_strength(parts: Iterable[Shared]) -> float:
    """The s of the module's head over a tensor's parts."""
    measured = Strength()
    for part in parts:
        measured.see(part)
    return measured.value
