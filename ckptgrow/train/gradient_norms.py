"""Norms of gradients: of the mean over all devices and micro-batches, and of the parts of this mean.

Both together give the gradient noise scale. The parts are the gradients of the devices, where there are several; else
the gradient of the first micro-batch, where gradients are accumulated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from ckptgrow.train.noise_scale import NoiseScale
from ckptgrow.train.sharding import squared_norm


@dataclass
class GradientListener:
    """Sums the squares of one device's gradients, on their way into the mean over devices."""

    is_listening: bool = False
    squared: torch.Tensor | None = None

    def hear(self, gradients: torch.Tensor) -> None:
        """Adds a bucket of gradients."""
        if self.is_listening:
            added = gradients.detach().float().square().sum()
            self.squared = added if self.squared is None else self.squared + added


class GradientNorms(lightning.Callback):
    """Measures norms on the steps that will be logged, into `values`, which is empty on other steps."""

    def __init__(self, every: int, grad_accum: int) -> None:
        self.every, self.grad_accum = every, grad_accum
        self.values: dict[str, float] = {}
        self._listener = GradientListener()
        self._noise = NoiseScale()
        self._first: float | None = None
        self._num_sequences = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Makes the listener hear the gradients that devices send each other."""
        wrapped = trainer.strategy.model
        if isinstance(wrapped, DistributedDataParallel) and trainer.world_size > 1:
            wrapped.register_comm_hook(
                self._listener,
                lambda listener, bucket: _listening(listener, bucket),  # noqa: PLW0108  DDP refuses quoted annotations
            )

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Counts the sequences of the step."""
        if batch_idx % self.grad_accum == 0:
            self._num_sequences, self._first, self.values = 0, None, {}
            self._listener.squared = None
            self._listener.is_listening = (trainer.global_step + 1) % self.every == 0
        self._num_sequences += len(batch["input_ids"])

    def on_after_backward(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Measures the first micro-batch's gradient; Lightning has divided its loss by the number of micro-batches."""
        alone = trainer.world_size == 1 and self.grad_accum > 1
        if alone and self._listener.is_listening and self._first is None:
            self._first = float(_squared_norm(pl_module)) * (self.grad_accum / _loss_scale(trainer)) ** 2

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Measures the norm of the mean gradient, before clipping."""
        if not self._listener.is_listening:
            return
        squared = _squared_norm(pl_module)
        if not isinstance(trainer.strategy.model, DistributedDataParallel):
            # each device holds other parts of the gradient (FSDP), or there is one device
            squared = trainer.strategy.reduce(squared, reduce_op="sum")
        big = float(squared) / _unscaled_by(trainer, optimizer) ** 2
        self.values = {"grad_norm": math.sqrt(big)}
        small = self._small(trainer)
        if small is None:
            return
        num_parts = trainer.world_size if trainer.world_size > 1 else self.grad_accum
        num_local = self._num_sequences // (self.grad_accum if trainer.world_size == 1 else 1)
        self.values["grad_norm_local"] = math.sqrt(small)
        scale = self._noise.update(small, big, num_local, num_local * num_parts)
        if scale is not None:
            self.values["critical_batch_size"] = scale

    def _small(self, trainer: lightning.Trainer) -> float | None:
        """The mean squared norm of the parts; None where there is only one."""
        if self._listener.squared is None:
            return self._first
        mean = trainer.strategy.reduce(self._listener.squared, reduce_op="mean")
        return float(mean) / _loss_scale(trainer) ** 2

    def state_dict(self) -> dict[str, Any]:
        """The moving averages of the noise scale."""
        return vars(self._noise).copy()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes the moving averages of the noise scale from a checkpoint."""
        self._noise = NoiseScale(**state_dict)


def _listening(listener: GradientListener, bucket: Any) -> torch.futures.Future[torch.Tensor]:
    listener.hear(bucket.buffer())
    group: Any = None  # the default process group
    return allreduce_hook(group, bucket)


def _squared_norm(module: torch.nn.Module) -> torch.Tensor:
    """float64; where gradients lie in shards, this device's part of it."""
    return squared_norm([one.grad for one in module.parameters() if one.grad is not None])


def _loss_scale(trainer: lightning.Trainer) -> float:
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())


def _unscaled_by(trainer: lightning.Trainer, optimizer: torch.optim.Optimizer) -> float:
    """The number by which gradients must still be divided: fused optimizers undo the loss scale themselves, later."""
    return _loss_scale(trainer) if getattr(optimizer, "_step_supports_amp_scaling", False) else 1.0
