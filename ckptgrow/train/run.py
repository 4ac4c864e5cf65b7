"""One training run: model, data, Lightning's Trainer, and what it goes on from."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch import loggers
from torch.utils.data import DataLoader

from ckptgrow.checkpoints.loops import with_step
from ckptgrow.errors import ConfigError, DataError, RequestError
from ckptgrow.families.model import build_model
from ckptgrow.train.guards import SaveOnInterrupt, StopAtNonfiniteLoss
from ckptgrow.train.module import RUN, LanguageModel
from ckptgrow.train.schedule import lr_for_size
from ckptgrow.train.settings import TrainSettings, settings_for
from ckptgrow.train.tokens import BatchOrder, TokenFiles, collate

CHECKPOINTS, LAST, RESUMED = "checkpoints", "last.ckpt", "resumed.ckpt"


@dataclass(frozen=True)
class Trained:
    """Where a run ended."""

    out: Path
    checkpoint: Path
    global_step: int
    tokens_seen: int
    loss: float | None
    val_loss: float | None
    lr: float


class TokenData(lightning.LightningDataModule):
    """Training batches from the module's place in the data on; validation batches in order."""

    def __init__(self, settings: TrainSettings, files: TokenFiles, module: LanguageModel) -> None:
        super().__init__()
        self.settings, self.files, self.module = settings, files, module

    def train_dataloader(self) -> DataLoader[Any]:
        """Endless; the run ends by its number of steps."""
        settings, module = self.settings, self.module
        sequences = self.files.sequences("train", settings.seqlen)
        assert self.trainer is not None
        order = BatchOrder(
            len(sequences),
            settings.seqlen,
            settings.batch_size,
            settings.seed,
            position=module.position,
            tokens_seen=module.tokens_seen,
            rank=self.trainer.global_rank,
            num_devices=self.trainer.world_size,
            growing=settings.growing,
        )
        return DataLoader(
            sequences,
            batch_sampler=order,
            collate_fn=collate,
            num_workers=settings.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """The same sequences every time, cut by device."""
        sequences = self.files.sequences("val", self.settings.seqlen)
        assert self.trainer is not None
        mine = range(self.trainer.global_rank, len(sequences), self.trainer.world_size)
        return DataLoader(sequences, batch_size=self.settings.batch_size, sampler=list(mine))


def train(given: Mapping[str, Any]) -> Trained:
    """Trains with the fields of `TrainSettings` that are given; a run that goes on (`resume`) takes the others from its
    checkpoint. Returns where the run ended.

    Raises RequestError, ConfigError or DataError for what cannot be, before anything is written.
    """
    state = _resumed_state(given.get("resume"))
    stored = (state or {}).get("hyper_parameters") or {}
    settings = settings_for(given, stored.get(RUN, {}))
    if settings.lr is None and "lr" in stored:
        settings = replace(settings, lr=float(stored["lr"]))
    if state is not None:
        settings = replace(settings, config=_agreed_config(settings, state))
    files = TokenFiles.open(settings.data)
    _check(settings, files)
    lightning.seed_everything(settings.seed, verbose=False)
    model = build_model(settings.config, torch.float32, str(settings.resume or "--config")).train()
    lr = settings.lr if settings.lr is not None else lr_for_size(num_without_embeddings(model))
    if settings.compile:
        model.compile()
    module = LanguageModel(model, settings, lr, state)
    path = _ready_to_resume(settings, state)
    trainer = _trainer(settings, files)
    with warnings.catch_warnings():
        # the place in the data is kept by position, not by Lightning's loader state; few workers are a choice
        warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="lightning")
        warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
        try:
            trainer.fit(module, datamodule=TokenData(settings, files, module), ckpt_path=path, weights_only=True)
        except SystemExit as stop:  # Lightning turns Ctrl-C into exit(1)
            raise KeyboardInterrupt if trainer.interrupted else stop from None
        finally:
            (settings.out / RESUMED).unlink(missing_ok=True)
    last = settings.out / CHECKPOINTS / LAST
    trainer.save_checkpoint(last)
    metrics = trainer.callback_metrics
    return Trained(
        settings.out,
        last,
        trainer.global_step,
        module.tokens_seen,
        _number(metrics.get("loss")),
        _number(metrics.get("val_loss")),
        lr,
    )


def num_without_embeddings(model: torch.nn.Module) -> int:
    """Parameters outside embedding tables."""
    embeddings = {id(one.weight) for one in model.modules() if isinstance(one, torch.nn.Embedding)}
    return sum(one.numel() for one in model.parameters() if id(one) not in embeddings)


def _resumed_state(path: Path | None) -> Mapping[str, Any] | None:
    if path is None:
        return None
    from ckptgrow.checkpoints.formats import read_checkpoint

    read_checkpoint(path)  # names what is wrong with the file, and never runs its code
    return torch.load(path, weights_only=True, mmap=True, map_location="cpu")


def _agreed_config(settings: TrainSettings, state: Mapping[str, Any]) -> dict[str, Any]:
    stored = dict(state.get("hyper_parameters", {}).get("config") or {})
    if not settings.config:
        if not stored:
            raise ConfigError(
                f"{settings.resume}: has no config, expected hyper_parameters['config']; pass --config FILE"
            )
        return stored
    different = [key for key, value in settings.config.items() if key in stored and stored[key] != value]
    if different:
        name = sorted(different)[0]
        raise ConfigError(
            f"--config: {name} is {settings.config[name]!r}, expected {stored[name]!r} as in {settings.resume}; leave "
            "--config out to go on with the checkpoint's"
        )
    return {**stored, **settings.config}


def _check(settings: TrainSettings, files: TokenFiles) -> None:
    vocabulary = settings.config.get("vocab_size")
    if isinstance(vocabulary, int) and files.vocab_size > vocabulary:
        raise DataError(
            f"{files.directory / 'meta.json'}: has a vocabulary of {files.vocab_size}, expected at most the model's "
            f"{vocabulary}; prepare the data with the model's tokenizer"
        )
    positions = settings.config.get("n_positions") or settings.config.get("max_position_embeddings")
    if isinstance(positions, int) and settings.seqlen > positions:
        raise RequestError(f"--seqlen {settings.seqlen}: expected at most the model's {positions} positions")
    for split in ("train", "val"):
        files.sequences(split, settings.seqlen)
    available = torch.cuda.device_count()
    if settings.accelerator in ("cuda", "gpu") and settings.devices > available:
        raise RequestError(f"--devices {settings.devices}: this machine has {available} GPUs, expected at most that")


def _ready_to_resume(settings: TrainSettings, state: Mapping[str, Any] | None) -> Path | None:
    """The checkpoint to fit from: the file itself, or a copy without the parts to reset and at another step."""
    if state is None:
        return None
    if not settings.reset and settings.step is None:
        return settings.resume
    changed = dict(state)
    if "optimizer" in settings.reset:
        changed["optimizer_states"] = []
    if "schedule" in settings.reset:
        changed["lr_schedulers"] = []
    step = 0 if "schedule" in settings.reset and settings.step is None else settings.step
    if step is not None:
        changed["global_step"] = step
        changed["loops"] = with_step(changed.get("loops"), step)
        changed["lr_schedulers"] = [
            {**one, "last_epoch": step, "_step_count": step + 1} for one in changed.get("lr_schedulers", [])
        ]
    settings.out.mkdir(parents=True, exist_ok=True)
    torch.save(changed, settings.out / RESUMED)
    return settings.out / RESUMED


def _trainer(settings: TrainSettings, files: TokenFiles) -> lightning.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    directory = settings.out / CHECKPOINTS
    accumulation = settings.grad_accum
    saved: list[lightning.Callback] = [
        StopAtNonfiniteLoss(),
        SaveOnInterrupt(directory / LAST),
        lightning_callbacks.ModelCheckpoint(
            dirpath=directory,
            filename="step-{step}",
            auto_insert_metric_name=False,
            every_n_train_steps=settings.save_every,
            save_top_k=-1,
            save_on_train_epoch_end=False,
        ),
        lightning_callbacks.LearningRateMonitor(logging_interval="step"),
    ]
    return lightning.Trainer(
        default_root_dir=settings.out,
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=settings.strategy,
        precision=settings.precision,  # pyright: ignore[reportArgumentType]  Lightning names them; the command checks
        max_steps=settings.train_steps,
        accumulate_grad_batches=accumulation,
        gradient_clip_val=settings.grad_clip or None,
        val_check_interval=settings.val_every * accumulation,
        check_val_every_n_epoch=None,
        limit_val_batches=settings.val_batches,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.log_every,
        logger=_logger(settings),
        callbacks=saved,
        enable_progress_bar=settings.progress_bar,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _logger(settings: TrainSettings) -> Any:
    """A CSV always; tensorboard or Weights & Biases beside it."""
    csv = loggers.CSVLogger(settings.out, name="logs", flush_logs_every_n_steps=settings.log_every)
    if settings.logger == "tensorboard":
        return [csv, loggers.TensorBoardLogger(settings.out, name="tensorboard")]
    if settings.logger == "wandb":
        return [csv, loggers.WandbLogger(save_dir=settings.out)]
    return csv


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
