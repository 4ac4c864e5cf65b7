"""Callbacks that keep a run safe: a loss that is no number stops it; Ctrl-C saves first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import torch

from ckptgrow.errors import DataError


class StopAtNonfiniteLoss(lightning.Callback):
    """Stops before the broken step's result can be saved; the last good checkpoint stays."""

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Checks the loss of every micro-batch. Raises DataError."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if loss is not None and not bool(torch.isfinite(loss.detach()).all()):
            raise DataError(
                f"step {trainer.global_step}: the loss is {float(loss.detach())}, expected a finite number; the last "
                "good checkpoint is kept; go on from it with a lower --lr, or --grad-clip"
            )


class SaveOnInterrupt(lightning.Callback):
    """Writes a checkpoint when the run is interrupted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Saves on Ctrl-C and SIGTERM alone."""
        if isinstance(exception, KeyboardInterrupt) and trainer.global_step > 0:
            trainer.save_checkpoint(self.path)
