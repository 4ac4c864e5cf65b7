"""How one space (an axis of activations) grows from n to n' coordinates.

A growth is three vectors over the new coordinates j:

    source[j]   the old coordinate that j copies
    write[j]    f: the new activation is  x'[j] = f[j] · x[source[j]]
    read[j]     b: the new gradient is    δ'[j] = b[j] · δ[source[j]]

The function is preserved when Σ f[j]·b[j] = 1 over the copies j of every old coordinate.

A new coordinate may also copy nothing (source −1: it is fresh). Then it is written so that nothing that is read from it
reaches the function, as its `Filling` says: as zero, or as the mean of the old coordinates (where a LayerNorm follows),
and read by copies of old columns or by drawn ones; or by rows that are drawn, which zero columns read. The copies are
those of its `template`, an old coordinate. A norm that runs across fresh coordinates makes the old ones √(n'/n) larger:
`norm` = √(n/n') is what its gain is multiplied by to undo that.

Or it begins as a weighted mean of old coordinates, as a new token's row does (`Blends`): then it is a unit of its own,
which the old ones do not see.

Source: Chen, Goodfellow, Shlens, "Net2Net", arXiv 1511.05641 (copies and the split of their readers);
Shen et al., "Staged Training for Transformer Language Models", arXiv 2203.06211 (width operator);
Wang et al., "LEMON: Lossless Model Expansion", arXiv 2310.07999 (averages before a LayerNorm).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypedDict

import numpy as np
import numpy.typing as npt

IntVector = npt.NDArray[np.int64]
BoolVector = npt.NDArray[np.bool_]
FloatVector = npt.NDArray[np.float64]
Written = Literal["zero", "mean", "drawn", "copied"]  # how a tensor that writes a space fills a fresh coordinate
Read = Literal["zero", "drawn", "copied"]  # and one that reads it
FRESH = -1
MOST_COPIES = 256  # of a coordinate, to which a split deals weights out


@dataclass(frozen=True)
class Filling:
    """How tensors fill a space's fresh coordinates: those that write it, those among them whose zero alone silences a
    unit (values of heads, one factor of gated units), and those that read it.
    """

    written: Written = "zero"
    silencing: Written = "zero"
    read: Read = "drawn"


@dataclass(frozen=True, eq=False)
class Blends:
    """How fresh coordinates begin as weighted means of old ones.

    `number`: for every new coordinate which of the blends it is, FRESH where it is none; shape (n',). `sources` and
    `weights`: of every blend its old coordinates and their shares, which sum to 1.
    """

    number: IntVector
    sources: tuple[IntVector, ...]
    weights: tuple[FloatVector, ...]

    @classmethod
    def of_means(cls, number: IntVector, sources: Sequence[IntVector]) -> Blends:
        """Blends of which each is the plain mean of its sources."""
        return cls(number, tuple(sources), tuple(np.full(len(one), 1.0 / len(one)) for one in sources))

    def within(self, first_new: int, num_new: int, first_old: int) -> Blends:
        """The same on an axis of `num_new` coordinates on which the space begins at these places."""
        number = np.full(num_new, FRESH)
        number[first_new : first_new + len(self.number)] = self.number
        return Blends(number, tuple(one + first_old for one in self.sources), self.weights)


@dataclass(frozen=True)
class Run:
    """New coordinates [start, stop) that copy the old ones from `source` on, in order, as their `copy`-th copies."""

    start: int
    stop: int
    source: int
    copy: int

    def clip(self, start: int, stop: int) -> Run | None:
        """The part of this run inside [start, stop), if any."""
        first, last = max(self.start, start), min(self.stop, stop)
        return Run(first, last, self.source + first - self.start, self.copy) if first < last else None


@dataclass(frozen=True, eq=False, kw_only=True)
class Growth:
    """One space's growth; vectors have length n' (see the module's head)."""

    source: IntVector
    write: FloatVector
    read: FloatVector
    num_old: int
    filling: Filling = Filling()
    template: IntVector | None = None  # the old coordinate that each one copies, or begins as a copy of; or FRESH
    silencing: BoolVector | None = None  # where what writes the space silences units by its zeros; None: nowhere
    norm: float = 1.0
    squared: FloatVector | None = None  # what squared gradients are multiplied by; None: b²
    squared_written: FloatVector | None = None  # and those of what reads the space; None: f²
    written_as: Blends | None = None  # how what writes the space fills fresh coordinates that are means of old ones
    read_as: Blends | None = None  # and how what reads it does

    @property
    def read_squared(self) -> FloatVector:
        """What squared gradients are multiplied by: b², or more where copies' gradients are different parts. Shape
        (n',).
        """
        return self.read**2 if self.squared is None else self.squared

    @property
    def write_squared(self) -> FloatVector:
        """What squared gradients of what reads the space are multiplied by: f², or the mean square of activations that
        are not the same for every token. Shape (n',).
        """
        return self.write**2 if self.squared_written is None else self.squared_written

    @property
    def num_new(self) -> int:
        """n', the new size."""
        return len(self.source)

    @cached_property
    def is_identity(self) -> bool:
        """Whether the space stays as it is."""
        same = self.num_new == self.num_old and bool((self.source == np.arange(self.num_old)).all())
        return same and bool((self.write == 1).all() and (self.read == 1).all())

    @cached_property
    def is_fresh(self) -> BoolVector:
        """For every new coordinate: whether it copies nothing. Shape (n',)."""
        return self.source == FRESH

    @cached_property
    def has_fresh(self) -> bool:
        """Whether any new coordinate copies nothing."""
        return bool(self.is_fresh.any())

    @property
    def begins_as(self) -> IntVector:
        """For every new coordinate the old one that it copies or begins as a copy of; FRESH where none. Shape (n',)."""
        return self.source if self.template is None else self.template

    @cached_property
    def is_new(self) -> BoolVector:
        """For every new coordinate: whether it is a later copy of an old one, or fresh. Shape (n',)."""
        return self.is_fresh | (self.copy > 0)

    @cached_property
    def num_copies(self) -> IntVector:
        """For every new coordinate: how many copies its source has; 1 for a fresh one. Shape (n',)."""
        counts = np.bincount(self.source[~self.is_fresh], minlength=self.num_old)
        return np.where(self.is_fresh, 1, counts[self.source])

    @cached_property
    def copy(self) -> IntVector:
        """For every new coordinate: which copy of its source it is, from 0. Shape (n',)."""
        order = np.argsort(self.source, kind="stable")
        _, counts = np.unique(self.source, return_counts=True)
        firsts = np.repeat(np.cumsum(counts) - counts, counts)
        copy = np.empty(self.num_new, dtype=np.int64)
        copy[order] = np.arange(self.num_new) - firsts
        return copy

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The growth as runs, in which sources ascend by one and copy, write and read stay the same.

        Fresh coordinates are in no run.
        """
        if self.num_new == 0:
            return ()
        same = (
            (np.diff(self.source) == 1)
            & ~self.is_fresh[:-1]
            & (np.diff(self.copy) == 0)
            & (np.diff(self.num_copies) == 0)
        )
        same &= (np.diff(self.write) == 0) & (np.diff(self.read) == 0)
        starts = np.concatenate([[0], np.flatnonzero(~same) + 1])
        stops = np.append(starts[1:], self.num_new)
        return tuple(
            Run(int(start), int(stop), int(self.source[start]), int(self.copy[start]))
            for start, stop in zip(starts, stops, strict=True)
            if self.source[start] != FRESH
        )

    def runs_between(self, start: int, stop: int) -> Iterator[Run]:
        """The runs' parts inside [start, stop)."""
        for run in self.runs:
            clipped = run.clip(start, stop)
            if clipped is not None:
                yield clipped

    def preserves_function(self, tolerance: float = 1e-12) -> bool:
        """Whether Σ write·read = 1 over the copies of every old coordinate (up to rounding of float64)."""
        old = ~self.is_fresh
        sums = np.bincount(self.source[old], weights=(self.write * self.read)[old], minlength=self.num_old)
        return bool(np.allclose(sums, 1.0, rtol=0.0, atol=tolerance))


def runs_of(marks: BoolVector) -> list[list[int]]:
    """The marked coordinates as runs [start, stop].

    >>> runs_of(np.array([False, True, True, False, True]))
    [[1, 3], [4, 5]]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marks, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2).tolist()


def identity(size: int) -> Growth:
    """A space that does not grow: f = b = 1."""
    return Growth(source=np.arange(size), write=np.ones(size), read=np.ones(size), num_old=size)


def copies(size: int, new_size: int) -> Growth:
    """Cyclic copies: j copies j mod n; f = 1, and b splits each reader evenly over the copies (Net2Net).

    With new_size = k · size these are k whole blocks with b = 1/k, exact also through a norm over the space.

    >>> copies(3, 5).source.tolist(), copies(3, 5).read.tolist()
    ([0, 1, 2, 0, 1], [0.5, 0.5, 1.0, 0.5, 0.5])
    """
    source = np.arange(new_size) % size
    counts = np.bincount(source, minlength=size)
    return Growth(source=source, write=np.ones(new_size), read=1.0 / counts[source], num_old=size)


def shrunken_copies(size: int, new_size: int, power: float = 1.0) -> Growth:
    """Copies written smaller: f = k^-power, b = k^(power − 1) for k copies.

    Power 1 leaves readers as they are: for the final norm before a head tied to the embedding. Power ½ is for what the
    model multiplies by the root of the hidden size.
    """
    growth = copies(size, new_size)
    return Growth(source=growth.source, write=growth.read**power, read=growth.read ** (1 - power), num_old=size)


def serving_copies(size: int, new_size: int) -> Growth:
    """Copies of each coordinate side by side, c of them, each serving a part of what the old one served: f = 1.

    Their gradients are different parts of the old one, in the mean b = 1/c of it; squares are 1/c of the old one's
    where the parts are uncorrelated (1/c² were they equal).

    >>> serving_copies(2, 4).source.tolist(), serving_copies(2, 4).read_squared.tolist()
    ([0, 0, 1, 1], [0.5, 0.5, 0.5, 0.5])
    """
    num_copies = new_size // size
    share = np.full(new_size, 1.0 / num_copies)
    source = np.repeat(np.arange(size), num_copies)
    return Growth(source=source, write=np.ones(new_size), read=share, num_old=size, squared=share)


def chosen_copies(size: int, new_size: int, num_chosen: int) -> tuple[Growth, Growth]:
    """Copies of which every token has some, R of them and k of these chosen, with weights that sum to 1: the growths of
    what is chosen (experts), and of what is summed by the weights (routed).

    A copy has, in the mean over tokens, 1/R of the old gradient, by its weight; the mean of the weight's square is
    1/(k · R) where weights are even, and so is the square of the gradient, where those of tokens are uncorrelated.

    >>> [one.write.tolist() for one in chosen_copies(1, 2, 1)]
    [[1.0, 1.0], [0.5, 0.5]]
    >>> [one.read_squared.tolist() for one in chosen_copies(1, 2, 1)]
    [[0.5, 0.5], [1.0, 1.0]]
    """
    growth = copies(size, new_size)
    share, squared = growth.read, growth.read / num_chosen
    ones = np.ones(new_size)
    routed = Growth(source=growth.source, write=share, read=ones, num_old=size, squared_written=squared)
    return Growth(source=growth.source, write=ones, read=share, num_old=size, squared=squared), routed


def identities(sizes: Mapping[str, int]) -> dict[str, Growth]:
    """The growths of spaces that stay as they are, by their sizes."""
    return {space: identity(size) for space, size in sizes.items()}


def padded(size: int, new_size: int, filling: Filling = Filling(), *, norm: float = 1.0, scale: float = 1.0) -> Growth:
    """The old coordinates, f = scale and b = 1/scale, and fresh ones after them.

    Fresh ones begin as copies of the old ones in turn, each old one once: of two that begin as one and the same, behind
    rows of zeros, neither could ever part from the other. Further ones have no template.

    >>> padded(3, 7).source.tolist(), padded(3, 7).begins_as.tolist()
    ([0, 1, 2, -1, -1, -1, -1], [0, 1, 2, 0, 1, 2, -1])
    """
    source, template = np.full(new_size, FRESH), np.full(new_size, FRESH)
    source[:size] = np.arange(size)
    template[: 2 * size] = (np.arange(new_size) % size)[: 2 * size]
    return Growth(
        source=source,
        write=np.full(new_size, scale),
        read=np.full(new_size, 1 / scale),
        num_old=size,
        filling=filling,
        template=template,
        norm=norm,
    )


def product(factors: Sequence[Growth]) -> Growth:
    """The growth of an axis that is the outer product of spaces, the last one fastest, as in `(heads head)`."""
    result = factors[0]
    for inner in factors[1:]:
        result = Growth(
            source=_pairs(result.source, inner.source, inner.num_old),
            write=np.outer(result.write, inner.write).ravel(),
            read=np.outer(result.read, inner.read).ravel(),
            num_old=result.num_old * inner.num_old,
            template=_pairs(result.begins_as, inner.begins_as, inner.num_old),
            silencing=np.logical_or.outer(_silencing(result), _silencing(inner)).ravel(),
            squared=np.outer(result.read_squared, inner.read_squared).ravel(),
            squared_written=np.outer(result.write_squared, inner.write_squared).ravel(),
            **_of_the_fresh([result, inner]),
        )
    return result


def concatenation(parts: Sequence[Growth]) -> Growth:
    """The growth of an axis on which spaces follow each other, as in fused `(q + k + v)` projections."""
    offsets = np.cumsum([0, *(part.num_old for part in parts)])

    def moved(vectors: Sequence[IntVector]) -> IntVector:
        pairs = zip(vectors, offsets[:-1], strict=True)
        return np.concatenate([np.where(vector == FRESH, FRESH, vector + offset) for vector, offset in pairs])

    return Growth(
        source=moved([part.source for part in parts]),
        write=np.concatenate([part.write for part in parts]),
        read=np.concatenate([part.read for part in parts]),
        num_old=int(offsets[-1]),
        template=moved([part.begins_as for part in parts]),
        silencing=np.concatenate([_silencing(part) for part in parts]),
        squared=np.concatenate([part.read_squared for part in parts]),
        squared_written=np.concatenate([part.write_squared for part in parts]),
        **_of_the_fresh(parts),
        **_blends_in(parts),
    )


def _pairs(outer: IntVector, inner: IntVector, num_inner: int) -> IntVector:
    """The coordinates of an outer product; FRESH where either is."""
    is_fresh = np.logical_or.outer(outer == FRESH, inner == FRESH)
    return np.where(is_fresh, FRESH, outer[:, None] * num_inner + inner[None, :]).ravel()


def _silencing(growth: Growth) -> BoolVector:
    return np.zeros(growth.num_new, np.bool_) if growth.silencing is None else growth.silencing


class _BlendsOfBoth(TypedDict):
    written_as: Blends | None
    read_as: Blends | None


def _blends_in(parts: Sequence[Growth]) -> _BlendsOfBoth:
    """The blends on an axis of several parts: those of the part that has some, at its place."""
    first_new = first_old = 0
    num_new = sum(part.num_new for part in parts)
    for part in parts:
        if part.written_as or part.read_as:
            both = part.written_as, part.read_as
            written, read = (one and one.within(first_new, num_new, first_old) for one in both)
            return {"written_as": written, "read_as": read}
        first_new, first_old = first_new + part.num_new, first_old + part.num_old
    return {"written_as": None, "read_as": None}


class _OfTheFresh(TypedDict):
    filling: Filling
    norm: float


def _of_the_fresh(parts: Sequence[Growth]) -> _OfTheFresh:
    """How an axis's fresh coordinates are written and read: as those of the part that has some."""
    one = next((part for part in parts if part.has_fresh), parts[0])
    return {"filling": one.filling, "norm": one.norm}
