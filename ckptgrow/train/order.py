"""The order in which a run sees its data: a pure function of a seed and a position.

Pass p over the data is a permutation keyed by (seed, p), and batches are cut from the endless row of all passes. So a
run can go on exactly where it was, on any number of devices.

Of a mixture, source i with share w_i has such a row of its own, and its j-th sequence the time

    t_ij = (j + u_ij) / w_i,       u_ij in [0, 1) by a hash of seed, i and j

All sequences in the order of their times are the mixture's row. Up to any time t, source i has been drawn t · w_i
times, less than one more or less; so after n draws of S sources its number differs from n · w_i by less than
max(1, S − 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from ckptgrow.train.growing_batches import GrowingBatches

Item = tuple[int, int, int]  # sequence, tokens to use, position after its micro-batch

ROUNDS = 6
BLOCK = 4096  # sequences whose order is computed at once
_GOLDEN = 0x9E3779B97F4A7C15  # 2⁶⁴ over the golden ratio, splitmix64's increment
_WORD = 2**64 - 1


@dataclass(frozen=True)
class DataPosition:
    """How far a run is in its data: sequences and tokens that all devices have seen."""

    position: int = 0
    tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class BatchShare:
    """Which part of a step one device computes: `batch_size` sequences in each of `grad_accum` micro-batches, as the
    `rank`-th of `num_devices`.
    """

    batch_size: int
    grad_accum: int = 1
    rank: int = 0
    num_devices: int = 1


class EndlessRow(Protocol):
    """An endless row of sequences, by their numbers."""

    def between(self, start: int, stop: int) -> NDArray[np.int64]:
        """The sequences at places [start, stop)."""
        ...


@dataclass(frozen=True)
class Passes:
    """`num_sequences`, shuffled anew in every pass."""

    num_sequences: int
    seed: int

    def between(self, start: int, stop: int) -> NDArray[np.int64]:
        """The sequences at places [start, stop)."""
        return self.at(np.arange(start, stop))

    def at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sequences at some places."""
        passes, within = np.divmod(places, self.num_sequences)
        found = np.empty(len(places), dtype=np.int64)
        for one in np.unique(passes):
            chosen = passes == one
            found[chosen] = permuted(within[chosen], self.num_sequences, key_of(self.seed, int(one)))
        return found


class MixedPasses:
    """Several sources of `sizes` sequences, drawn by their `shares`, which add up to 1; numbered source after source.

    See the module's head.
    """

    def __init__(self, sizes: Sequence[int], shares: Sequence[float], seed: int) -> None:
        keys = [key_of(seed, number) for number in range(len(sizes))]
        self._rows = [Passes(size, key) for size, key in zip(sizes, keys, strict=True)]
        self._first = [sum(sizes[:number]) for number in range(len(sizes))]
        self._shares, self._keys = shares, [key_of(key, 0) for key in keys]

    def between(self, start: int, stop: int) -> NDArray[np.int64]:
        """The sequences at places [start, stop)."""
        slack = len(self._rows) + 1  # at time t, between t − S and t + S have been drawn
        spans = [(max(0, int((start - slack) * share)), int((stop + slack) * share) + 2) for share in self._shares]
        draws = [np.arange(*span) for span in spans]
        times = [
            (ours + _fractions(ours, key)) / share
            for ours, key, share in zip(draws, self._keys, self._shares, strict=True)
        ]
        sources = np.repeat(np.arange(len(draws)), [len(ours) for ours in draws])
        skipped = sum(first for first, _ in spans)  # all of them earlier than `start`
        chosen = np.lexsort((sources, np.concatenate(times)))[start - skipped : stop - skipped]
        source, draw = sources[chosen], np.concatenate(draws)[chosen]
        found = np.empty(stop - start, dtype=np.int64)
        for number, row in enumerate(self._rows):
            found[source == number] = self._first[number] + row.at(draw[source == number])
        return found


class BatchOrder(Sampler[list[Item]]):
    """One device's part of every micro-batch, endlessly, from a place on: sequences of `length` tokens in the order of
    a row. All micro-batches of a step are equally large.
    """

    def __init__(
        self,
        row: EndlessRow,
        length: int,
        share: BatchShare,
        *,
        start: DataPosition = DataPosition(),
        growing: GrowingBatches = GrowingBatches(),
    ) -> None:
        self.row, self.length, self.share = row, length, share
        self.start, self.growing = start, growing
        self._block_number, self._block = -1, list[int]()

    def __iter__(self) -> Iterator[list[Item]]:
        position, seen = self.start.position, self.start.tokens
        share = self.share
        unit = share.num_devices * share.grad_accum
        while True:
            size = self.growing.batch(share.batch_size * unit, unit, seen) // share.grad_accum
            used = self.growing.length(self.length, seen)
            mine = size // share.num_devices
            for _ in range(share.grad_accum):
                first = position + share.rank * mine
                position += size
                yield [(number, used, position) for number in self._sequences(first, first + mine)]
            seen += size * share.grad_accum * used

    def _sequences(self, start: int, stop: int) -> list[int]:
        """The sequences at places [start, stop) of the row, computed a block at a time."""
        found: list[int] = []
        while start < stop:
            number, within = divmod(start, BLOCK)
            if number != self._block_number:
                self._block_number = number
                self._block = self.row.between(number * BLOCK, (number + 1) * BLOCK).tolist()
            found += self._block[within : within + stop - start]
            start = (number + 1) * BLOCK
        return found


def permuted(places: NDArray[np.int64], num: int, key: int) -> NDArray[np.int64]:
    """A pseudo-random permutation of range(num) at some places, computed without a table of all places.

    A Feistel network over the next even number of bits, walked until the value is below `num`.

    Source: Black & Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002, sections 3 and 5.
    """
    half = np.uint64(max(1, ((num - 1).bit_length() + 1) // 2))
    keys = [np.uint64(key_of(key, number)) for number in range(ROUNDS)]
    values = _feistel(places.astype(np.uint64), half, keys)
    while (outside := values >= num).any():
        values[outside] = _feistel(values[outside], half, keys)
    return values.astype(np.int64)


def _feistel(values: NDArray[np.uint64], half: np.uint64, keys: list[np.uint64]) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << half) | right


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finalizer (Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators", 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _fractions(numbers: NDArray[np.int64], key: int) -> NDArray[np.float64]:
    """A number in [0, 1) for each, by a hash; float64."""
    mixed = _mixed(numbers.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(key))
    return (mixed >> np.uint64(11)).astype(np.float64) / 2**53


def key_of(one: int, other: int) -> int:
    """A 64-bit key from two numbers, the same in every process."""
    start = (one * _GOLDEN + (other + 1) * 0xD1B54A32D192ED03) & _WORD
    return int(_mixed(np.array([start], dtype=np.uint64))[0])


def collate(items: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
    """A micro-batch: inputs and next-token targets, shape (batch, tokens), and the position in the data after it."""
    tokens = torch.stack([one for one, _ in items])
    return {"input_ids": tokens[:, :-1], "targets": tokens[:, 1:], "position": torch.tensor(items[0][1])}
