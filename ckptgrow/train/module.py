"""The LightningModule: a causal language model, its loss, its optimizer, and its place in the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import lightning
import torch
from torch.optim.lr_scheduler import LambdaLR

from ckptgrow.state.run_data import DATA
from ckptgrow.state.train_schedule import NEW_RISE
from ckptgrow.train.additions import NewEntries
from ckptgrow.train.averaging import average_of, follow, with_average
from ckptgrow.train.groups import new_groups, parameter_groups
from ckptgrow.train.isolation import logits_of
from ckptgrow.train.mixtures import Mixture
from ckptgrow.train.muon import MATCHED, MuonWithAdamW, join, separate, split_groups
from ckptgrow.train.new_rates import NewRates
from ckptgrow.train.order import DataPosition, key_of
from ckptgrow.train.resuming import GROWTH, POSITION, TOKENS, Resumed
from ckptgrow.train.settings import RUN, TrainSettings
from ckptgrow.train.sharding import shard, squared_norm
from ckptgrow.train.validation import scored

SCALED_PRECISION = "16-mixed"
CLIP_EPSILON = 1e-6  # of torch's clip_grad_norm_


class LanguageModel(lightning.LightningModule):
    """Trains `model` (a transformers causal language model); `resumed` is what the run goes on from, `new` what the
    last growth added to it.

    `position` counts the sequences that all devices have seen, `tokens_seen` their tokens: the place in the data.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        settings: TrainSettings,
        lr: float,
        data: Mixture,
        resumed: Resumed | None = None,
        new: Mapping[str, NewEntries] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.model = model
        self.ema = average_of(model, settings.ema) if settings.ema else None
        self.settings = settings
        self.lr = lr
        self.data = data
        self._isolation = data.isolation() if settings.documents == "isolated" else None
        self.save_hyperparameters({"config": settings.config, "lr": lr, RUN: settings.carried(), DATA: data.record()})
        self.resumed = resumed
        self.growth: dict[str, Any] = {} if resumed is None else resumed.growth
        self._new_entries, self._new_rates = new, None
        self._schedule = settings.schedule_after(self.growth.get("rewarm"))
        place = DataPosition() if resumed is None else resumed.place
        self.position, self.tokens_seen = place.position, place.tokens
        self._is_sharded = False
        self.micro_loss: torch.Tensor | None = None
        self._validated: torch.Tensor | None = None

    @property
    def place(self) -> DataPosition:
        """How far the run is in its data."""
        return DataPosition(self.position, self.tokens_seen)

    @property
    def num_growths(self) -> int:
        """Of the model, by its record."""
        return len(self.growth.get("history", ()))

    @property
    def in_place_of_the_file(self) -> Callable[[], dict[str, Any]] | None:
        """Makes the checkpoint that Lightning loads instead of the file, where another trainer wrote the file."""
        resumed = self.resumed
        if resumed is None or resumed.adopted is None:
            return None
        return lambda: resumed.loaded(self.state_dict())

    def configure_model(self) -> None:
        """Shards the model under fsdp, once; Lightning asks again at later stages."""
        if self.settings.strategy == "fsdp" and not self._is_sharded:
            mesh = self.device_mesh
            assert mesh is not None
            shard(self.model, mesh)
            self._is_sharded = True

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """The mean next-token cross-entropy in nats of one micro-batch."""
        # dropout is a function of seed, place and device, so that an interrupted run goes on with the same masks
        seed = key_of(key_of(self.settings.seed, self.position), self.global_rank // self.settings.tensor_parallel)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        else:  # torch.manual_seed asks every accelerator, and formats a stack trace for those that are not there
            torch.default_generator.manual_seed(seed)
        loss = self._loss(batch)
        self.position = int(batch["position"])
        self.tokens_seen += batch["input_ids"].numel() * self.settings.num_replicas
        self.micro_loss = loss.detach()
        return loss

    def on_validation_epoch_start(self) -> None:
        """Sets the sums of losses and weights of all sources to zero."""
        shape = (len(self.data.validated), 2)
        self._validated = torch.zeros(shape, dtype=torch.float64, device=self.device)

    def validation_step(
        self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Adds the losses of some sequences of a source, and their weights."""
        assert self._validated is not None
        tokens, weights = batch
        sums, counts = scored(self.model, tokens, self._isolation)
        self._validated[dataloader_idx] += torch.stack([(sums * weights).sum(), (counts * weights).sum()])

    def validation_losses(self) -> list[float]:
        """The mean loss in nats over the validation sequences of all devices, of each source that has any."""
        assert self._validated is not None
        sums = self.trainer.strategy.reduce(self._validated, reduce_op="sum").tolist()
        return [total / num for total, num in sums]

    def configure_optimizers(self) -> Any:
        """The optimizer with a new run's groups or the checkpoint's own, and a schedule that steps with it."""
        optimizer = self._optimizer()
        if NEW_RISE in self.growth:
            self._new_rates = NewRates(optimizer, self.model, self._new_entries)
            self._new_rates.load_state_dict(self.growth[NEW_RISE])
        if self.ema is not None:
            follow(optimizer, self.ema, self.model)
        # copies: loading a scheduler's state writes into its functions
        scheduler = LambdaLR(optimizer, [self._schedule.copy() for _ in optimizer.param_groups])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _optimizer(self) -> torch.optim.Optimizer:
        settings, resumed = self.settings, self.resumed
        kept = None if resumed is None else resumed.optimizer
        groups = [new_groups(self.model, settings.weight_decay)]
        if settings.optimizer == "muon" and kept is None:
            groups = split_groups(self.model, groups[0])
        if kept is not None:
            numbers = range(2 if settings.optimizer == "muon" else 1)
            groups = [[_plain(one) for one in parameter_groups(self.model, kept, number)] for number in numbers]
        adamw = torch.optim.AdamW(
            groups[-1],
            lr=self.lr,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=self._implementation["fused"],
            foreach=self._implementation["foreach"],
        )
        if settings.optimizer == "adamw":
            return adamw
        decay = settings.weight_decay
        muon = torch.optim.Muon(groups[0], lr=self.lr, weight_decay=decay, adjust_lr_fn=MATCHED)
        return MuonWithAdamW(muon, adamw)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the place in the data, and the record of growths."""
        if self.settings.optimizer == "muon":
            separate(checkpoint)
        checkpoint[POSITION], checkpoint[TOKENS] = self.position, self.tokens_seen
        if self._new_rates is not None:
            self.growth[NEW_RISE] = self._new_rates.state_dict()
        if self.growth:
            checkpoint[GROWTH] = self.growth

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Removes the parts that begin anew, before Lightning loads the rest."""
        assert self.resumed is not None
        self.resumed.prepare(checkpoint, self.settings.grad_accum, self._implementation)
        join(checkpoint)
        checkpoint["state_dict"] = with_average(checkpoint["state_dict"], is_wanted=self.ema is not None)

    def on_train_start(self) -> None:
        """Sets this run's schedule and peak learning rate instead of the stored ones."""
        scheduler = self.lr_schedulers()
        assert isinstance(scheduler, LambdaLR)
        ratio = 1.0 if self.resumed is None or self.resumed.optimizer is None else self.lr / self.resumed.lr
        scheduler.base_lrs = [base * ratio for base in scheduler.base_lrs]
        scheduler.lr_lambdas = [self._schedule.copy() for _ in scheduler.base_lrs]
        for group, base in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, strict=True):
            group["initial_lr"] = base
            group["lr"] = base * self._schedule(scheduler.last_epoch)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips by the global norm; where each device holds parts of the gradients, by that over all devices."""
        if not gradient_clip_val or self.settings.strategy != "fsdp":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        gradients = [one.grad for one in self.parameters() if one.grad is not None]
        squared = self.trainer.strategy.reduce(squared_norm(gradients), reduce_op="sum")
        scale = float(torch.clamp(gradient_clip_val / (squared.sqrt() + CLIP_EPSILON), max=1.0))
        for one in gradients:
            one.mul_(scale)

    @property
    def _implementation(self) -> dict[str, bool | None]:
        """AdamW's: fused on CUDA, unless the loss is scaled.

        A fused AdamW undoes the loss scale itself, so gradients could not be clipped before. Where matrices are cut and
        norms are not, parameters lie on different meshes, and torch updates no two of these at once.
        """
        if self.settings.tensor_parallel > 1:
            return {"fused": None, "foreach": False}
        is_fused = self.device.type == "cuda" and self.settings.precision != SCALED_PRECISION
        return {"fused": True if is_fused else None, "foreach": None}

    def _loss(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        tokens, isolation = batch["input_ids"], self._isolation
        logits = logits_of(self.model, tokens, isolation)
        if isolation is not None:
            return isolation.loss(logits, tokens, batch["targets"])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch["targets"].flatten())


def language_model(module: lightning.LightningModule) -> LanguageModel:
    """The module of a run, as callbacks of Lightning's get it."""
    assert isinstance(module, LanguageModel)
    return module


def _plain(group: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's group without the options that this run decides, at its peak learning rate."""
    kept = {key: value for key, value in group.items() if key not in ("fused", "foreach", "decoupled_weight_decay")}
    return {**kept, "lr": kept.pop("initial_lr", kept["lr"])}
