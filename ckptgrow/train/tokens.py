"""Token files as sequences, and the order in which a run sees them.

The order is a pure function of a seed and a position, so a run goes on exactly where it was, on any number of devices:
pass p over the data is a permutation seeded by (seed, p), and micro-batches are cut from that endless row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from ckptgrow.errors import DataError

Item = tuple[int, int, int]  # sequence, tokens to use, position after its batch


@dataclass(frozen=True)
class TokenFiles:
    """A directory that `ckptgrow data` wrote."""

    directory: Path
    vocab_size: int
    dtype: str

    @classmethod
    def open(cls, directory: Path) -> TokenFiles:
        """Reads `meta.json`; raises DataError where there is none."""
        path = directory / "meta.json"
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
            return cls(directory, int(meta["vocab_size"]), str(meta["dtype"]))
        except OSError as error:
            raise DataError(f"{directory}: has no meta.json, expected what `ckptgrow data` writes") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: is damaged ({error}); prepare the data again") from error

    def sequences(self, split: str, length: int) -> Sequences:
        """A split cut into sequences of `length` tokens; raises DataError where it is shorter than one."""
        path = self.directory / f"{split}.bin"
        if not path.exists():
            raise DataError(f"{path}: no such file, expected what `ckptgrow data` writes")
        size = path.stat().st_size // np.dtype(self.dtype).itemsize
        if size < length + 1:
            raise DataError(f"{path}: has {size} tokens, expected at least {length + 1} for one sequence")
        return Sequences(path, self.dtype, length)


class Sequences(Dataset[torch.Tensor]):
    """Item i: tokens [i·length, (i + 1)·length], one more than the length, int64; inputs and targets overlap."""

    def __init__(self, path: Path, dtype: str, length: int) -> None:
        self.path, self.dtype, self.length = path, dtype, length
        self._tokens: Any = None
        self._num = (path.stat().st_size // np.dtype(dtype).itemsize - 1) // length

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, item: Any) -> Any:
        """A sequence by number, or by an Item of the batch order: then with the position after its batch."""
        if isinstance(item, tuple):
            number, used, position = cast(Item, item)
            return self._read(number)[: used + 1], position
        return self._read(int(item))

    def _read(self, number: int) -> torch.Tensor:
        if self._tokens is None:
            self._tokens = np.memmap(self.path, dtype=self.dtype, mode="r")
        start = number * self.length
        return torch.from_numpy(self._tokens[start : start + self.length + 1].astype(np.int64))


@dataclass(frozen=True)
class Growing:
    """Batch size and sequence length that grow linearly over the first tokens, as the staged-training script's do."""

    batch_tokens: int = 0  # tokens over which the batch size grows; 0 for never
    sequence_tokens: int = 0

    def batch(self, full: int, unit: int, seen: int) -> int:
        """Sequences of the next micro-batch over all devices: a multiple of `unit`, at least that."""
        if self.batch_tokens <= 0:
            return full
        share = min(1.0, seen / self.batch_tokens)
        return max(unit, int(full * share) // unit * unit)

    def length(self, full: int, seen: int) -> int:
        """Tokens of the next sequences: at least 8, a multiple of 8."""
        if self.sequence_tokens <= 0:
            return full
        share = min(1.0, seen / self.sequence_tokens)
        return min(full, max(8, int(full * share) // 8 * 8))


class BatchOrder(Sampler[list[Item]]):
    """One device's part of every micro-batch, endlessly, from a position on (counted over all devices)."""

    def __init__(
        self,
        num_sequences: int,
        length: int,
        batch_size: int,
        seed: int,
        *,
        position: int = 0,
        tokens_seen: int = 0,
        rank: int = 0,
        num_devices: int = 1,
        growing: Growing = Growing(),
    ) -> None:
        self.num_sequences, self.length, self.batch_size, self.seed = num_sequences, length, batch_size, seed
        self.position, self.tokens_seen = position, tokens_seen
        self.rank, self.num_devices, self.growing = rank, num_devices, growing

    def __iter__(self) -> Iterator[list[Item]]:
        position, seen = self.position, self.tokens_seen
        permutation, current_pass = torch.empty(0), -1
        while True:
            full = self.batch_size * self.num_devices
            size = self.growing.batch(full, self.num_devices, seen)
            used = self.growing.length(self.length, seen)
            numbers: list[int] = []
            for place in range(position, position + size):
                if place // self.num_sequences != current_pass:
                    current_pass = place // self.num_sequences
                    permutation = self._permutation(current_pass)
                numbers.append(int(permutation[place % self.num_sequences]))
            position += size
            seen += size * used
            mine = size // self.num_devices
            yield [(number, used, position) for number in numbers[self.rank * mine : (self.rank + 1) * mine]]

    def _permutation(self, current_pass: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + current_pass)
        return torch.randperm(self.num_sequences, generator=generator)


def collate(items: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
    """Inputs and next-token targets, shape (batch, tokens), and the position in the data after this batch."""
    tokens = torch.stack([one for one, _ in items])
    return {"input_ids": tokens[:, :-1], "targets": tokens[:, 1:], "position": torch.tensor(items[0][1])}
