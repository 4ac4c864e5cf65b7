"""Lightning's Trainer, through its public interface only, with a run's callbacks, data and strategy."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import lightning
import torch
from lightning.pytorch import loggers
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.utils.data import DataLoader

from ckptgrow.errors import MissingDependencyError
from ckptgrow.state.counting import num_without_embeddings
from ckptgrow.train.gradient_norms import GradientNorms
from ckptgrow.train.guards import FiniteLosses, Interrupted, Interruption
from ckptgrow.train.metrics import MetricsFile
from ckptgrow.train.mixtures import Mixture
from ckptgrow.train.module import LanguageModel
from ckptgrow.train.monitor import Monitor, loss_columns
from ckptgrow.train.order import BatchOrder, BatchShare, collate
from ckptgrow.train.run_directory import CHECKPOINTS, LastSaved
from ckptgrow.train.saving import AtomicCheckpoints, Checkpoints, Saving, will_validate
from ckptgrow.train.settings import TrainSettings
from ckptgrow.train.sharding import Sharded
from ckptgrow.train.slope_stop import Ends, SlopeStop
from ckptgrow.train.step_progress import Report
from ckptgrow.train.stopwatch import Stopwatch
from ckptgrow.train.validation import LastValidation, SharedSequences


class TokenData(lightning.LightningDataModule):
    """Gives training batches from the module's place in the data on, and validation batches in order."""

    def __init__(self, settings: TrainSettings, data: Mixture, module: LanguageModel) -> None:
        super().__init__()
        self.settings, self.data, self.module = settings, data, module

    def train_dataloader(self) -> DataLoader[Any]:
        """Training batches without end; the run ends by its number of steps."""
        settings = self.settings
        assert self.trainer is not None
        order = BatchOrder(
            self.data.row(settings.seqlen, settings.seed),
            settings.seqlen,
            BatchShare(
                batch_size=settings.batch_size,
                grad_accum=settings.grad_accum,
                rank=self.trainer.global_rank // settings.tensor_parallel,
                num_devices=settings.num_replicas,
            ),
            start=self.module.place,
            growing=settings.growing,
        )
        return DataLoader(
            self.data.training(settings.seqlen),
            batch_sampler=order,
            collate_fn=collate,
            num_workers=settings.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=settings.num_workers > 0,
        )

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """The same validation sequences in every run, divided among devices: a loader for each source that has any."""
        assert self.trainer is not None
        rank, num_devices = self.trainer.global_rank // self.settings.tensor_parallel, self.settings.num_replicas
        sequences = [one.files.sequences("val", self.settings.seqlen) for one in self.data.validated]
        mine = [SharedSequences(one, self.settings.num_validated, rank, num_devices) for one in sequences]
        return [DataLoader(one, batch_size=self.settings.batch_size) for one in mine]


class Training:
    """The parts of a run, and their Trainer."""

    def __init__(
        self,
        settings: TrainSettings,
        data: Mixture,
        module: LanguageModel,
        report: Report | None,
        clock: Stopwatch,
        beside: Sequence[lightning.Callback] = (),
    ) -> None:
        self.settings, self.data, self.module = settings, data, module
        losses, writer = FiniteLosses(), AtomicCheckpoints(module.in_place_of_the_file)
        norms = GradientNorms(settings.log_every, settings.grad_accum)
        self.monitor = Monitor(settings.log_every, norms, losses, clock, report)
        where, saved = settings.out / CHECKPOINTS, _description(data, module)
        self.checkpoints = Checkpoints(where, _saving(settings), writer, losses.check, clock, saved)
        self.slope_stop = _slope_stop(settings, module.num_growths, self.monitor)
        ending = [*beside, self.checkpoints, Interruption(self.checkpoints.save, will_validate)]
        _quieten()
        self.trainer = lightning.Trainer(
            default_root_dir=settings.out,
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            strategy=_strategy(settings),
            precision=settings.precision,  # pyright: ignore[reportArgumentType]  Lightning names them; the command checks
            max_steps=settings.last_step,
            accumulate_grad_batches=settings.grad_accum,
            gradient_clip_val=settings.grad_clip or None,
            val_check_interval=settings.val_every * settings.grad_accum,
            check_val_every_n_epoch=None,
            limit_val_batches=1.0 if data.validated else 0,  # or Lightning warns
            num_sanity_val_steps=0,
            logger=_loggers(settings, module.tokens_seen, data),
            callbacks=[norms, self.monitor, LastValidation(settings.train_steps), self.slope_stop, *ending],
            plugins=[writer],
            enable_checkpointing=False,  # Checkpoints does it
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )

    def fit(self) -> int | None:
        """Trains to the end and returns None, or the number of the signal that ended the run earlier."""
        data = TokenData(self.settings, self.data, self.module)
        with warnings.catch_warnings():
            # the place in the data is kept by position, not by Lightning's loader state; few workers are a choice
            warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="lightning")
            warnings.filterwarnings("ignore", category=FutureWarning, module="lightning")
            warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
            try:
                self.trainer.fit(self.module, datamodule=data, ckpt_path=self.settings.resume, weights_only=True)
            except Interrupted as interruption:
                return interruption.number
            except SystemExit as stop:  # what Lightning makes of Ctrl-C
                raise KeyboardInterrupt from stop
        return None


def _description(data: Mixture, module: LanguageModel) -> Callable[[int], LastSaved]:
    """Describes what is saved at a step; the model is counted here, before it is cut among devices."""
    parameters = sum(one.numel() for one in module.model.parameters())
    without_embeddings, history = num_without_embeddings(module.model), module.growth.get("history", ())
    return lambda step: LastSaved(
        parameters=parameters, without_embeddings=without_embeddings, step=step, data=data.sha256, history=history
    )


def _slope_stop(settings: TrainSettings, num_growths: int, monitor: Monitor) -> SlopeStop:
    ends = Ends(settings.until_slope, settings.until_loss)
    return SlopeStop(ends, num_growths, settings.val_every, lambda: monitor.val_loss)


def _saving(settings: TrainSettings) -> Saving:
    return Saving(settings.save_every, settings.save_minutes * 60, settings.log_every, settings.keep)


def _quieten() -> None:
    """What Lightning tells of the machine is no matter of the run."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _strategy(settings: TrainSettings) -> str | Strategy:
    if settings.strategy == "fsdp":
        return Sharded(settings.num_replicas, settings.tensor_parallel)
    if settings.strategy == "ddp" or settings.devices * settings.num_nodes > 1:
        return DDPStrategy(gradient_as_bucket_view=True)
    return "auto"


def _loggers(settings: TrainSettings, tokens: int, data: Mixture) -> list[loggers.Logger]:
    """The loggers of a run: always a CSV file, and TensorBoard or Weights & Biases if asked for."""
    found: list[loggers.Logger] = [MetricsFile(settings.out, tokens, loss_columns(data))]
    try:
        if settings.logger == "tensorboard":
            found.append(loggers.TensorBoardLogger(settings.out, name="tensorboard"))
        if settings.logger == "wandb":
            found.append(loggers.WandbLogger(save_dir=settings.out))
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"⟦logger {settings.logger}⟧: needs {settings.logger}, expected it installed; pip install {settings.logger}"
        ) from error
    return found
