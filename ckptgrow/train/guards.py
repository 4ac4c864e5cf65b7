"""Stops a run at a loss that is not finite, and at Ctrl-C, SIGTERM or a closed terminal after saving it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import lightning
import torch

from ckptgrow.errors import DivergedError
from ckptgrow.progress import leave_terminal

NEVER = 2**53  # a step that no run reaches, exact in float64


class FiniteLosses:
    """Remembers the first step whose loss was not finite, on the device, so that nothing waits for it."""

    def __init__(self) -> None:
        self._broken: torch.Tensor | None = None

    def see(self, loss: torch.Tensor, step: int) -> None:
        """Takes a micro-batch's loss."""
        found = torch.where(torch.isfinite(loss), NEVER, step)
        self._broken = found if self._broken is None else torch.minimum(self._broken, found)

    def check(self, trainer: lightning.Trainer) -> None:
        """Raises DivergedError on all devices where one of them saw such a loss."""
        if self._broken is None:
            return
        step = int(trainer.strategy.reduce(self._broken.double(), reduce_op="min"))
        if step < NEVER:
            raise DivergedError(
                f"step {step}: the loss is not a finite number, expected one; checkpoints from before it are kept: "
                "⟦resume⟧ from there with a lower ⟦lr⟧, or begin anew with one"
            )


class Interrupted(Exception):  # noqa: N818  no error: the run ends as it was asked to
    """A signal arrived, and the run was saved after the step that it was in."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Interruption(lightning.Callback):
    """Ends the run at Ctrl-C, SIGTERM or a closed terminal, saved after the step that it is in; at a second Ctrl-C at
    once. What was told to outlive its terminal (nohup) does.
    """

    def __init__(
        self, save: Callable[[lightning.Trainer], None], will_validate: Callable[[lightning.Trainer], bool]
    ) -> None:
        self.save, self._will_validate = save, will_validate
        self._received = 0
        self._step = 0
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Installs the handlers, after Lightning has installed its own."""
        self._step = trainer.global_step
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._receive)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Never between the micro-batches of a step: their gradients are in no checkpoint; nor before the validation
        of a step, which a run that goes on would lack. Raises Interrupted.
        """
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if not self._will_validate(trainer):
            self._end(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """The step is whole now. Raises Interrupted."""
        self._end(trainer)

    def _end(self, trainer: lightning.Trainer) -> None:
        number = self._received
        if trainer.world_size > 1:
            received = torch.tensor(float(number), device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(received, reduce_op="max"))
        if number:
            self.save(trainer)
            raise Interrupted(number)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Installs the earlier handlers again."""
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            raise KeyboardInterrupt
        if number == signal.SIGHUP:
            leave_terminal()
        self._received = number
