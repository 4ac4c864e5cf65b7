"""Each old weight dealt out unequally among the copies that it reads: separation that rounding does not undo.

A weight that reads a space grown by copies may be shared out among the copies c of each old input i in any way that
sums to one, for they all carry the same activation:

    W'[o, (i, c)] = a_c(o, i) · W[src o, i] · f_out[o] / f_in[i, c]        Σ_c a_c(o, i) = 1

One copy, drawn for every entry (o, i), has more than the others. With k copies and the spread S

    a = (1 − 2S)/k + 2S  of the drawn one, (1 − 2S)/k  of every other             for two copies ½ + S and ½ − S

so S = 0 would be even shares, ½ is {1, 0}, 1 is {1½, −½} and 1½ is {2, −1}. A coordinate's own number of copies is its
k. Each new row deals for itself, so the copies receive gradients of different parts of the old readers: for two copies
equal ones at S = 0, orthogonal ones at ½, nearly opposite ones from 1 on.

    S = ½     every entry is W or 0 up to the factors of the algebra, so nothing is rounded where those are powers of
              two, and nothing cancels: differences between the copies pass through no more than the small model's own
              weights.
    other S   the drawn share is rounded once, and the others share what is left of W. For two copies that is a number
              of the dtype itself for every S up to 1½: W − y is exact for W/2 ≤ y ≤ W (Sterbenz), and up to 2W because
              y is a multiple of W's last place. So the shares sum to W to the bit, and the function is exact, in every
              dtype. For k copies they do where k − 1 is a power of two and the drawn share lies between ½ and 2 (what
              is left is halved), else up to one rounding of each. Differences between the copies are multiplied by
              Σ|a| = 1 + 2 (1 − 1/k) (2S − 1) from S = ½ on.

The draws are counted (Philox) by seed, parameter name and row, so any row range can be drawn on its own, in any order,
with the same result.

Source: derived here; LEMON (Wang et al., arXiv 2310.07999) shares by a constant a, Net2Net (Chen et al., arXiv
1511.05641) evenly, the staged-training paper (Shen et al., arXiv 2203.06211) has a = [c is the copy of o]. Generator:
Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from ckptgrow.spaces.gather import Gather, GrownAxis, TensorGrowth
from ckptgrow.spaces.growth import MOST_COPIES, Growth, Run
from ckptgrow.spaces.noise import copied_input, key_of

WHOLE = 0.5  # the spread that gives the drawn copy all and the others nothing
Choices = npt.NDArray[np.uint8]
BITS_PER_COUNT = 256  # Philox 4×64
BIT_VIEWS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, eq=False)
class Split:
    """How the entries of one parameter are divided among copies, as the module's head says.

    `first_row`: where its draws begin, for a piece of a larger parameter; a row here is one of all axes before the
    input's.
    """

    axes: tuple[GrownAxis, ...]
    key: int
    spread: float = WHOLE
    first_row: int = 0

    @cached_property
    def whole(self) -> Gather:
        """The gather in which every copy has the whole weight: f_out / f_in · W."""
        scales = [axis.growth.read if axis.role == "in" else axis.growth.write for axis in self.axes]
        scales[self.in_axis] = 1.0 / self.growth.write
        return Gather(self.axes, tuple(scales))

    def deal(self, rows: torch.Tensor, start: int) -> None:
        """Takes away, in place, what other copies have: `rows` are those of `whole` from `start` on, contiguous."""
        stop = start + len(rows)
        if self.in_axis == 0:
            for run in self.growth.runs_between(start, stop):
                choices = self._choices(run.source, run.source + run.stop - run.start)
                self.share(rows[run.start - start : run.stop - start], choices, run)
            return
        leading = math.prod(self._shape[1 : self.in_axis])
        choices = self._choices(start * leading, stop * leading)
        choices = choices.reshape(stop - start, *self._shape[1 : self.in_axis], *choices.shape[1:])
        for run in self.growth.runs:
            block = rows.narrow(self.in_axis, run.start, run.stop - run.start)
            sources = np.arange(run.source, run.source + run.stop - run.start)
            self.share(block, choices.take(sources, self.in_axis), run)

    def share(self, block: torch.Tensor, choices: Choices, run: Run) -> None:
        """What one copy has of a block of whole weights, in place."""
        is_drawn = np.equal(choices, run.copy)
        num_copies = int(self.growth.num_copies[run.start])
        if self.spread == WHOLE or num_copies == 1:
            bits = block.view(BIT_VIEWS[block.dtype.itemsize])  # so that infinities become zero too, and zero unsigned
            bits.mul_(torch.from_numpy(is_drawn.view(np.uint8)))
            return
        more = block * ((1 - 2 * self.spread) / num_copies + 2 * self.spread)
        less = block - more if num_copies == 2 else ((block.double() - more) / (num_copies - 1)).to(block.dtype)
        block.copy_(torch.where(torch.from_numpy(is_drawn), more, less))

    def _choices(self, start: int, stop: int) -> Choices:
        """Which copy has each weight, for rows [start, stop), counted as `first_row` is; shape (rows, *row's shape)."""
        row_shape = self._shape[1:] if self.in_axis == 0 else (self.growth.num_old, *self._shape[self.in_axis + 1 :])
        first = self.first_row + start
        length = math.prod(row_shape)
        if self.has_a_bit_each:
            drawn = np.unpackbits(_bits(self.key, first, stop - start, length), axis=1)[:, :length]
            drawn = drawn.reshape(stop - start, *row_shape)
            return drawn if self._is_even else drawn * (self._limits(start, stop) > 1)
        words = _raw(self.key, first, stop - start, length, 16).view(np.uint16)[:, :length]
        scaled = words.reshape(stop - start, *row_shape).astype(np.uint32) * self._limits(start, stop)
        return (scaled >> 16).astype(np.uint8)

    @property
    def has_a_bit_each(self) -> bool:
        """Whether a bit tells who has a weight: no input has more than two copies."""
        return self._most == 2

    def bits(self) -> npt.NDArray[np.uint8]:
        """All draws of a matrix where each is a bit, eight in a byte, a row for each of its draws' rows."""
        num_old = self.growth.num_old
        num_rows, length = (num_old, self._shape[1]) if self.in_axis == 0 else (self._shape[0], num_old)
        return _bits(self.key, self.first_row, num_rows, length)

    def _limits(self, start: int, stop: int) -> npt.NDArray[np.uint16]:
        """How many copies the inputs have, broadcastable over choices."""
        counts = self.old_counts
        if self.in_axis == 0:
            return counts[start:stop].reshape(-1, *[1] * (len(self._shape) - 1))
        return counts.reshape(1, -1, *[1] * (len(self._shape) - self.in_axis - 1))

    @cached_property
    def in_axis(self) -> int:
        """The axis along which the copies lie that are read."""
        found = copied_input(self.axes)
        assert found is not None
        return found

    @property
    def growth(self) -> Growth:
        """How that axis grows."""
        return self.axes[self.in_axis].growth

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        return tuple(axis.growth.num_new for axis in self.axes)

    @cached_property
    def old_counts(self) -> npt.NDArray[np.uint16]:
        """How many copies each old input has."""
        return np.bincount(self.growth.source, minlength=self.growth.num_old).astype(np.uint16)

    @cached_property
    def _most(self) -> int:
        return int(self.old_counts.max())

    @cached_property
    def _is_even(self) -> bool:
        return int(self.old_counts.min()) == self._most


def split_for(growth: TensorGrowth, *, seed: int, name: str, spread: float = WHOLE, first_row: int = 0) -> Split | None:
    """How parameter `name` is divided among the copies that it reads; None where it reads no copies.

    Raises ValueError for more than 256 copies of a coordinate.
    """
    position = copied_input(growth.axes)
    if position is None:
        return None
    if int(growth.axes[position].growth.num_copies.max()) > MOST_COPIES:
        raise ValueError(f"{name} reads more than {MOST_COPIES} copies of a coordinate")
    return Split(growth.axes, key_of(seed, name), spread, first_row)


def _bits(key: int, first: int, num_rows: int, length: int) -> npt.NDArray[np.uint8]:
    """Random bits for rows from `first` on, eight in a byte; shape (num_rows, bytes), of `length` bits at least."""
    return _raw(key, first, num_rows, length, 1).view(np.uint8)


def _raw(key: int, first: int, num_rows: int, length: int, bits_each: int) -> npt.NDArray[np.uint64]:
    """Random words for rows from `first` on, shape (num_rows, words); each row begins at a count of its own."""
    counts = -(-length * bits_each // BITS_PER_COUNT)
    generator = np.random.Philox(key=key, counter=first * counts)
    return generator.random_raw(num_rows * counts * 4).reshape(num_rows, counts * 4)
