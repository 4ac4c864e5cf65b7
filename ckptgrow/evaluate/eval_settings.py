"""The settings of an evaluation: how much is computed at once, and on how much of the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from ckptgrow.evaluate.processes import EvalProcesses
from ckptgrow.evaluate.subject import Subject

BOOTSTRAP_ITERS = 100_000  # lm-eval's own default
MAX_BATCH_SIZE = 64  # where lm-eval begins to try
DEFAULT_LENGTH = 2048  # tokens, where a config names no context
LOGITS_AT_ONCE = 256 * 2**20  # bytes of one batch's logits

BatchSize = int | Literal["auto"]
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """See the module's head; the defaults are lm-eval's, except for the batch size. Losses by token are over blocks of
    `block_size` tokens, by default the model's context.
    """

    batch_size: BatchSize = "auto"
    limit: float | None = None  # documents of each task, or a share of them below 1
    bootstrap_iters: int = BOOTSTRAP_ITERS  # resamples for standard errors without a formula; 0 for none
    num_fewshot: int | None = None
    block_size: int | None = None

    def limited(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items that the limit allows, counted as lm-eval counts them."""
        if self.limit is None:
            return items
        return items[: math.ceil(len(items) * self.limit) if self.limit < 1 else int(self.limit)]

    def batch_of(self, subject: Subject) -> int:
        """The batch size as a number; for `auto` the one whose logits take `LOGITS_AT_ONCE` bytes."""
        if self.batch_size != "auto":
            return self.batch_size
        bytes_of_one = 4 * subject.num_embeddings * (subject.max_length or DEFAULT_LENGTH)
        return max(1, min(MAX_BATCH_SIZE, LOGITS_AT_ONCE // bytes_of_one))

    def harness_batch(self, subject: Subject, processes: EvalProcesses) -> BatchSize:
        """The batch size for lm-eval.

        For `auto` lm-eval tries how much memory holds; on a CPU that would end the process, so it gets a number there.
        """
        return self.batch_of(subject) if processes.device.type == "cpu" else self.batch_size
