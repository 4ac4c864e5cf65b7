"""Losses of a model on held-out sequences, one by one: what candidates are compared by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ckptgrow.choices import PackedDocuments
from ckptgrow.errors import RequestError
from ckptgrow.train.mixtures import Mixture
from ckptgrow.train.validation import scored

BATCH = 16  # sequences at once


@dataclass(frozen=True)
class HeldOut:
    """Up to `num` sequences of `length` tokens, evenly over the validation split of `data`; of a mixture, by shares."""

    data: Path | str
    length: int
    num: int
    documents: PackedDocuments = "joined"

    def check(self) -> None:
        """Raises RequestError where there are none."""
        if not Mixture.open(self.data).validated:
            raise RequestError(f"{self.data}: has no validation tokens, expected some to compare candidates by")

    def losses(self, model: torch.nn.Module) -> npt.NDArray[np.float64]:
        """The mean next-token cross-entropy of each sequence in nats, without dropout; shape (sequences,).

        Afterwards the model is in the mode in which it was.
        """
        was_training, device = model.training, next(model.parameters()).device
        model.eval()
        isolation = Mixture.open(self.data).isolation() if self.documents == "isolated" else None
        found: list[torch.Tensor] = []
        with torch.no_grad():
            for batch in self._batches():
                sums, counts = scored(model, batch.to(device), isolation)
                found.append((sums / counts.clamp(min=1)).cpu())
        model.train(was_training)
        return torch.cat(found).numpy()

    def _batches(self) -> Iterator[torch.Tensor]:
        for source in Mixture.open(self.data).validated:
            sequences = source.files.sequences("val", self.length)
            count = min(max(1, round(self.num * source.share)), len(sequences))
            numbers = sorted({int(one) for one in np.linspace(0, len(sequences) - 1, count)})
            for start in range(0, len(numbers), BATCH):
                yield torch.stack([sequences[number] for number in numbers[start : start + BATCH]])
