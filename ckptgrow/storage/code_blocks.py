"""Tensors of floating-point numbers that a file keeps as one byte a number: codes of a map of 256 numbers, and for each
block of numbers, one row after the other, how large the map is there.

    value[i] = map[code[i]] · scale[i // block]                              in float32

Written again, a block keeps its codes wherever its numbers are those of one block, all multiplied by one factor;
elsewhere the scale is the largest magnitude, and each number takes the nearest code.

Source: Dettmers, Lewis, Shleifer & Zettlemoyer, "8-bit Optimizers via Block-wise Quantization", arXiv 2110.02861,
section 2; bitsandbytes 0.50, `functional.py` (`quantize_blockwise`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from ckptgrow.storage.tensors import LazyTensor, Made, merged, num_elements, whole

NUM_CODES = 256
SAME = 1e-6  # of a block's largest number: what roundings to float32 leave of a block that was multiplied
MOST_ELEMENTS = 1 << 20  # that are turned into codes at once


@dataclass(frozen=True)
class CodeMap:
    """The map, sorted, and the number of values in a block."""

    stored: LazyTensor
    block: int

    @property
    def shape(self) -> tuple[int, ...]:
        """See LazyTensor."""
        return self.stored.shape

    @property
    def dtype(self) -> torch.dtype:
        """See LazyTensor."""
        return self.stored.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        return self.stored.rows(start, stop)

    @cached_property
    def values(self) -> torch.Tensor:
        """The numbers of all codes, float32."""
        return whole(self.stored).float()

    @cached_property
    def middles(self) -> torch.Tensor:
        """Between which numbers a code is the nearest."""
        return (self.values[1:] + self.values[:-1]) / 2

    @cached_property
    def halves(self) -> torch.Tensor:
        """By how much a number may differ from that of its code, as a share of its block's scale."""
        below = 2 * (1 + self.values[:1]) if self.values[0] < 0 else self.values.new_zeros(1)
        above = 2 * (1 - self.values[-1:])
        gaps = torch.cat([below, self.values.diff(), above])
        return torch.maximum(gaps[1:], gaps[:-1]) / 2


@dataclass(frozen=True)
class InBlocks:
    """A tensor of float32 numbers that is kept in codes; see the module's head."""

    codes: LazyTensor
    scales: LazyTensor
    map: CodeMap

    @property
    def shape(self) -> tuple[int, ...]:
        """See LazyTensor."""
        return self.codes.shape

    @property
    def dtype(self) -> torch.dtype:
        """See LazyTensor."""
        return torch.float32

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        return self._of_codes(self.map.values, start, stop)

    @property
    def roundings(self) -> LazyTensor:
        """By how much each number may differ from the one that was rounded to it."""
        return Made(self.shape, torch.float32, lambda start, stop: self._of_codes(self.map.halves, start, stop))

    def _of_codes(self, values: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        codes, width, block = self.codes.rows(start, stop), math.prod(self.shape[1:]), self.map.block
        first, last = start * width, stop * width
        scales = self.scales.rows(first // block, -(-last // block)).repeat_interleave(block)
        return values[codes.long()] * scales[first % block :][: last - first].view(codes.shape)


def in_blocks(values: LazyTensor, code_map: CodeMap) -> InBlocks:
    """A tensor in codes; one that was read so is the same again, to the bit."""
    if isinstance(values, InBlocks):
        return values
    flat = _Flat(values, code_map)
    width, block = math.prod(values.shape[1:]), code_map.block

    def codes(start: int, stop: int) -> torch.Tensor:
        first, last = start * width, stop * width
        found = torch.cat([one for one, _ in flat.coded(first // block, -(-last // block))])
        return found[first % block :][: last - first].reshape(stop - start, *values.shape[1:]).contiguous()

    def scales(start: int, stop: int) -> torch.Tensor:
        return torch.cat([one for _, one in flat.coded(start, stop)])

    num_blocks = -(-num_elements(values) // block)
    return InBlocks(Made(values.shape, torch.uint8, codes), Made((num_blocks,), torch.float32, scales), code_map)


@dataclass(frozen=True)
class _Flat:
    """A tensor's numbers, one row after the other."""

    values: LazyTensor
    map: CodeMap

    def coded(self, start: int, stop: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The codes and the scales of blocks [start, stop), some at a time."""
        block, several = self.map.block, MOST_ELEMENTS // self.map.block
        for first in range(start, stop, several):
            last = min(first + several, stop)
            numbers = self._numbers(first * block, min(last * block, num_elements(self.values)))
            padded = torch.nn.functional.pad(numbers, (0, (last - first) * block - len(numbers)))
            codes, scales = _coded(padded.view(-1, block), self.map)
            yield codes.flatten()[: len(numbers)], scales

    def _numbers(self, first: int, last: int) -> torch.Tensor:
        rows = merged(self.values) if len(self.values.shape) > 2 else self.values
        width = math.prod(rows.shape[1:])
        start = first // width
        return rows.rows(start, -(-last // width)).reshape(-1)[first - start * width : last - start * width].float()


def _coded(blocks: torch.Tensor, code_map: CodeMap) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales of blocks, one a row.

    Where the number of the largest magnitude is negative, its code may be the map's lowest number, which is not -1.
    """
    largest = blocks.abs().amax(1)
    codes, errors = _nearest(blocks, largest, code_map)
    lowest = abs(float(code_map.values[0]))
    others = torch.nonzero((errors > SAME * largest) & (blocks.amin(1) == -largest)).flatten()
    if not lowest or not len(others):
        return codes, largest
    scales, inner = largest.clone(), blocks[others]
    guess = (inner.abs().amax(1).double() / lowest).float()
    for scale in (guess, guess.nextafter(guess.new_zeros(())), guess.nextafter(guess.new_full((), math.inf))):
        found, left = _nearest(inner, scale, code_map)
        is_better = (left <= SAME * scale) & (left < errors[others])
        better = others[is_better]
        codes[better], scales[better], errors[better] = found[is_better], scale[is_better], left[is_better]
    return codes, scales


def _nearest(blocks: torch.Tensor, scales: torch.Tensor, code_map: CodeMap) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest codes, and the largest error of each block."""
    inverse = torch.where(scales > 0, 1 / scales, torch.zeros_like(scales))
    codes = torch.bucketize(blocks * inverse[:, None], code_map.middles, right=False)
    errors = (code_map.values[codes] * scales[:, None] - blocks).abs().amax(1)
    return codes.to(torch.uint8), errors
