"""What a run logs, and what it reports while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning
import torch

from ckptgrow.train.gradient_norms import GradientNorms
from ckptgrow.train.guards import FiniteLosses
from ckptgrow.train.mixtures import Mixture
from ckptgrow.train.module import LanguageModel, language_model
from ckptgrow.train.step_progress import Progress, Report
from ckptgrow.train.stopwatch import Stopwatch
from ckptgrow.train.utilisation import flops_per_token, peak_of

LARGEST_EXPONENT = 80.0  # of a perplexity: beyond, a float in a CSV serves nobody


Look = Callable[[int, torch.nn.Module], None]  # the step, and the model after it


class Shown(lightning.Callback):
    """Shows the model to who looks at it: before the run's first step, and after each."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._step = -1

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """The model as it is loaded."""
        self._show(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The model after a step; micro-batches before its last change nothing."""
        if trainer.global_step != self._step:
            self._show(trainer, pl_module)

    def _show(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._step = trainer.global_step
        self._look(self._step, language_model(pl_module).model)


class Monitor(lightning.Callback):
    """Logs the loss of every `every`-th step (over its micro-batches and devices), and of every validation."""

    def __init__(
        self, every: int, norms: GradientNorms, losses: FiniteLosses, watch: Stopwatch, report: Report | None
    ) -> None:
        self.every, self.norms, self.losses, self.report = every, norms, losses, report
        self._watch = watch
        self.loss: float | None = None
        self.val_loss: float | None = None
        self.val_step: int | None = None
        self.lr = 0.0
        self._speed: float | None = None
        self._step = 0
        self._steps_since = self._tokens_since = 0
        self._sum: torch.Tensor | None = None
        self._num = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Starts to measure time, steps and tokens."""
        self._step = self._steps_since = trainer.global_step
        self._tokens_since = language_model(pl_module).tokens_seen
        self._watch.lap()

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Takes the learning rate of this step, the largest where groups differ."""
        self.lr = max(float(group["lr"]) for group in optimizer.param_groups)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds a micro-batch; logs at the end of a step that is due."""
        module = language_model(pl_module)
        assert module.micro_loss is not None
        step = trainer.global_step
        is_done = step != self._step
        self.losses.see(module.micro_loss, step if is_done else step + 1)
        self._sum = module.micro_loss if self._sum is None else self._sum + module.micro_loss
        self._num += 1
        if not is_done:
            return
        self._step = step
        if step % self.every == 0:
            self._log_step(trainer, module, batch)
        self._sum, self._num = None, 0
        if self.report is not None and trainer.is_global_zero:
            total = int(trainer.max_steps)
            is_logged = step % self.every == 0 or step == total
            self.report(
                Progress(
                    step=step,
                    total=total,
                    tokens=module.tokens_seen,
                    lr=self.lr,
                    loss=self.loss,
                    val_loss=self.val_loss,
                    val_step=self.val_step,
                    tokens_per_second=self._speed,
                    is_logged=is_logged,
                )
            )

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stops the time, which measures only training."""
        self._watch.pause()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Logs the mean over all validation sequences of all devices: of every source, and by their shares."""
        module = language_model(pl_module)
        losses = module.validation_losses()
        self.val_loss = module.data.mixed(losses)
        self.val_step = trainer.global_step
        values = {f"val_{name}": value for name, value in _as_loss(self.val_loss).items()}
        by_source = dict(zip(loss_columns(module.data), losses, strict=False))  # none where there is one source
        _log(trainer, {"tokens": module.tokens_seen, **by_source, **values})
        self._watch.resume()

    def _log_step(self, trainer: lightning.Trainer, module: LanguageModel, batch: Any) -> None:
        self.losses.check(trainer)
        assert self._sum is not None
        mean = trainer.strategy.reduce(self._sum.double() / self._num, reduce_op="mean")
        self.loss = float(mean)
        seconds = self._watch.lap() / max(1, self._step - self._steps_since)
        tokens = (module.tokens_seen - self._tokens_since) / max(1, self._step - self._steps_since)
        self._steps_since, self._tokens_since = self._step, module.tokens_seen
        self._speed = tokens / seconds
        count, length = batch["input_ids"].shape
        values: dict[str, float] = {
            "tokens": module.tokens_seen,
            **_as_loss(self.loss),
            "lr": self.lr,
            **self.norms.values,
            "batch_size": count * self._num * module.settings.num_replicas,
            "seqlen": length,
            "tokens_per_second": self._speed,
            "seconds_per_step": seconds,
        }
        peak = module.settings.peak_flops or peak_of(module.device)
        if peak is not None:
            needed = flops_per_token(module.model, length)
            values["mfu"] = self._speed * needed / (peak * trainer.world_size)
        if module.device.type == "cuda":
            values["memory_gib"] = torch.cuda.max_memory_allocated(module.device) / 2**30
        _log(trainer, values)


def loss_columns(data: Mixture) -> tuple[str, ...]:
    """The columns of a mixture's validation losses by source; none where there is one source."""
    return tuple(f"val_loss_{one.name}" for one in data.validated) if len(data.sources) > 1 else ()


def _as_loss(loss: float) -> dict[str, float]:
    """A loss in nats, with its perplexity and its value in bits."""
    return {"loss": loss, "perplexity": math.exp(min(loss, LARGEST_EXPONENT)), "bits": loss / math.log(2)}


def _log(trainer: lightning.Trainer, values: dict[str, float]) -> None:
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            logger.log_metrics(values, trainer.global_step)
