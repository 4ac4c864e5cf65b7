"""On what a run is validated, the same for any batch size, accumulation and number of devices, and that its end is."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch.utils.data import Dataset

from ckptgrow.train.isolation import IGNORED, Isolation, logits_of
from ckptgrow.train.token_sequences import Sequences


class SharedSequences(Dataset[tuple[torch.Tensor, float]]):
    """One device's share of the first `num` sequences, each with a weight.

    All devices must have equally many items, because some strategies exchange tensors at each batch. A share with one
    sequence less gets the very first sequence too, with weight 0.
    """

    def __init__(self, sequences: Sequences, num: int, rank: int, num_devices: int) -> None:
        self._sequences, self._num = sequences, min(num, len(sequences))
        self._rank, self._num_devices = rank, num_devices

    def __len__(self) -> int:
        return (self._num + self._num_devices - 1) // self._num_devices

    def __getitem__(self, item: int) -> tuple[torch.Tensor, float]:
        """A sequence of tokens, one more than the length, and its weight, 1 or 0."""
        number = item * self._num_devices + self._rank
        return (self._sequences[number], 1.0) if number < self._num else (self._sequences[0], 0.0)


class LastValidation(lightning.Callback):
    """Has the state after step `last`, a run's end, validated, whichever step that is."""

    def __init__(self, last: int) -> None:
        self._last = last

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tells Lightning to stop, which validates before it does."""
        if trainer.global_step >= self._last:
            trainer.should_stop = True


def scored(
    model: torch.nn.Module, tokens: torch.Tensor, isolation: Isolation | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of the cross-entropies of each sequence in nats, and their number; float64, shape (batch,).

    `tokens`: int64, one more than the model reads, shape (batch, tokens + 1).
    """
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    logits = logits_of(model, inputs, isolation)
    if isolation is not None:
        targets = isolation.targets(inputs, targets)
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view(targets.shape).double().sum(dim=1), (targets != IGNORED).double().sum(dim=1)
