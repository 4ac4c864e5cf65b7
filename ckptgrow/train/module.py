"""The LightningModule: a causal language model, its loss, its optimizer, and what each step logs."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import lightning
import torch
from torch.optim.lr_scheduler import LambdaLR

from ckptgrow.train.groups import new_groups, parameter_groups
from ckptgrow.train.noise_scale import NoiseScale
from ckptgrow.train.schedule import Schedule
from ckptgrow.train.settings import TrainSettings

POSITION, TOKENS = "position", "tokens_seen"
GROWTH = "ckptgrow"
RUN = "run"


class LanguageModel(lightning.LightningModule):
    """Trains `model` (a transformers causal language model); `state` is the checkpoint that the run goes on from.

    `position` counts the sequences that all devices have seen, `tokens_seen` their tokens: the place in the data.
    """

    def __init__(
        self, model: torch.nn.Module, settings: TrainSettings, lr: float, state: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.lr = lr
        self.growth: Mapping[str, Any] = (state or {}).get(GROWTH) or {}
        self.position = 0
        self.tokens_seen = 0
        self.save_hyperparameters({"config": settings.config, "lr": lr, RUN: settings.carried()})
        has_groups = state is not None and state.get("optimizer_states") and "optimizer" not in settings.reset
        self._group_state = state if has_groups else None
        self._noise = NoiseScale()
        self._small_norm: float | None = None
        self._clock = time.monotonic()

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Mean next-token cross-entropy in nats."""
        loss = self._loss(batch)
        tokens = batch["input_ids"].numel() * self.trainer.world_size
        self.position = int(batch["position"])
        self.tokens_seen += tokens
        self.log("loss", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        """Mean loss over validation sequences, its perplexity and bits."""
        loss = self._loss({"input_ids": batch[:, :-1], "targets": batch[:, 1:]})
        self.log("val_loss", loss, prog_bar=True, sync_dist=True, batch_size=len(batch))

    def on_validation_epoch_end(self) -> None:
        """Perplexity is e to the mean loss, not the mean of perplexities."""
        loss = float(self.trainer.callback_metrics["val_loss"])
        self.log("val_perplexity", math.exp(min(loss, 80.0)), sync_dist=True)
        self.log("val_bits", loss / math.log(2), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW over a new run's groups or the checkpoint's own, and the schedule by steps."""
        settings = self.settings
        defaults: dict[str, Any] = {
            "lr": self.lr,
            "betas": settings.betas,
            "eps": settings.eps,
            "weight_decay": settings.weight_decay,
        }
        if self.device.type == "cuda":
            defaults["fused"] = True
        groups = new_groups(self.model, settings.weight_decay)
        if self._group_state is not None:
            groups = [_plain(group) for group in parameter_groups(self.model, self._group_state)]
        optimizer = torch.optim.AdamW(groups, **defaults)
        rewarm = self.growth.get("rewarm") or {}
        start, steps = int(rewarm.get("start", 0)), int(rewarm.get("steps", 0))
        if settings.rewarm:
            start, steps = settings.step if settings.step is not None else _step_of(self._group_state), settings.rewarm
        self._schedule = Schedule(settings.schedule, settings.warmup_steps, settings.train_steps, start, steps)
        # copies: LambdaLR writes the stored settings into the objects that it holds
        scheduler = LambdaLR(optimizer, [replace(self._schedule) for _ in groups])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The place in the data, and the growths that the model went through."""
        checkpoint[POSITION], checkpoint[TOKENS] = self.position, self.tokens_seen
        if self.growth:
            checkpoint[GROWTH] = dict(self.growth)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The place in the data, unless the run shall see it from its beginning."""
        if "data" not in self.settings.reset:
            self.position, self.tokens_seen = checkpoint.get(POSITION, 0), checkpoint.get(TOKENS, 0)

    def on_train_start(self) -> None:
        """The schedule is this run's, not the stored one's, and the first step has its learning rate already."""
        scheduler = self.lr_schedulers()
        assert isinstance(scheduler, LambdaLR)
        groups = scheduler.optimizer.param_groups
        scheduler.lr_lambdas = [self._schedule] * len(groups)
        for group, base in zip(groups, scheduler.base_lrs, strict=True):
            group["lr"] = base * self._schedule(scheduler.last_epoch)

    def on_after_backward(self) -> None:
        """The first micro-batch's gradient, for the noise scale."""
        if self.settings.grad_accum > 1 and self._small_norm is None and self._logs_this_step():
            scale = self.settings.grad_accum / self._loss_scale()  # Lightning divides the loss by the accumulation
            self._small_norm = self._squared_norm() * scale**2

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Gradient norm and noise scale."""
        if not self._logs_this_step():
            return
        squared = self._squared_norm()
        self.log("grad_norm", math.sqrt(squared))
        if self._small_norm is not None:
            batch = self.settings.batch_size
            scale = self._noise.update(self._small_norm, squared, batch, batch * self.settings.grad_accum)
            self._small_norm = None
            if scale is not None:
                self.log("critical_batch_size", scale)

    def on_train_batch_end(self, outputs: Any, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """Speed, memory, tokens."""
        now = time.monotonic()
        if batch_idx:
            seconds = now - self._clock
            self.log("seconds_per_batch", seconds)
            self.log("tokens_per_second", batch["input_ids"].numel() * self.trainer.world_size / seconds, prog_bar=True)
        self._clock = now
        self.log("tokens", float(self.tokens_seen))
        if self.device.type == "cuda":
            self.log("memory_gib", torch.cuda.max_memory_allocated(self.device) / 2**30)

    def _loss(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        logits = self.model(input_ids=batch["input_ids"], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())

    def _squared_norm(self) -> float:
        gradients = [one.grad for one in self.parameters() if one.grad is not None]
        return float(torch.stack([one.detach().float().square().sum() for one in gradients]).sum())

    def _loss_scale(self) -> float:
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return float(scaler.get_scale()) if scaler is not None else 1.0

    def _logs_this_step(self) -> bool:
        return (self.trainer.global_step + 1) % self.settings.log_every == 0


def _plain(group: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's group without what the schedule sets anew."""
    kept = {key: value for key, value in group.items() if key not in ("fused", "foreach", "decoupled_weight_decay")}
    return {**kept, "lr": kept.pop("initial_lr", kept["lr"])}


def _step_of(state: Mapping[str, Any] | None) -> int:
    return int((state or {}).get("global_step", 0))
