"""Batches that grow while a run is young."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_BATCH, FIRST_LENGTH = 64, 64  # sequences and tokens that growing sizes start from: the staged-training script's
LENGTH_MULTIPLE = 8  # tokens: what matrix units like


@dataclass(frozen=True)
class GrowingBatches:
    """Batch size and sequence length that grow linearly over the first tokens; 0 tokens for never."""

    batch_tokens: int = 0
    sequence_tokens: int = 0

    def batch(self, full: int, unit: int, seen: int) -> int:
        """Sequences of the next step over all devices: a multiple of `unit`, from 64 to `full`."""
        if seen >= self.batch_tokens:
            return full
        size = FIRST_BATCH + (full - FIRST_BATCH) * seen / self.batch_tokens
        return min(full, max(unit, int(size) // unit * unit))

    def length(self, full: int, seen: int) -> int:
        """Tokens of the next sequences: a multiple of 8, from 64 to `full`."""
        if seen >= self.sequence_tokens:
            return full
        size = FIRST_LENGTH + (full - FIRST_LENGTH) * seen / self.sequence_tokens
        return min(full, int(size) // LENGTH_MULTIPLE * LENGTH_MULTIPLE)
