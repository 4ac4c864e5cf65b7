"""A user's LightningModule on tiny data, for growth within its `fit`.

torchrun --nproc-per-node 2 -m tests.helpers.growing_modules DIRECTORY THEN ddp|sharded
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import fully_shard
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModelForCausalLM, GPT2LMHeadModel

from ckptgrow import LightningGrowthCallback
from tests.helpers.gpt2 import perturbed_gpt2

STEPS, MOMENT = 8, 4


def rows(num: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 40, (num, 10), generator=torch.Generator().manual_seed(seed))


DATA = rows(4 * STEPS * 2, seed=1)


class Module(lightning.LightningModule):
    """A user's own: a model, its data, AdamW, and a schedule by a function."""

    def __init__(self, model: torch.nn.Module, *, config: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["model"])
        self.lm = model
        self.losses: list[float] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        """Lightning finds no place in such data again, so it is found by the step."""
        return self.step_at(self.trainer.global_step)

    def step_at(self, step: int) -> torch.Tensor:
        first = 4 * step % len(DATA)
        batch = DATA[first : first + 4]
        loss = self.lm(input_ids=batch, labels=batch).loss
        self.losses.append(float(loss.detach()))
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.lm(input_ids=batch, labels=batch).loss)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.lm.parameters(), lr=2e-3, weight_decay=0.1)
        scheduler = lr_scheduler.LambdaLR(optimizer, lambda step: 0.95**step)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(list(DATA), batch_size=4)  # pyright: ignore[reportArgumentType]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(list(rows(4, seed=2)), batch_size=4)  # pyright: ignore[reportArgumentType]


def small() -> GPT2LMHeadModel:
    return perturbed_gpt2(vocab_size=40).float().train()


def fitted(directory: Path, module: Module, *callbacks: Any, **options: Any) -> lightning.Trainer:
    settings: dict[str, Any] = {"max_steps": STEPS, "limit_val_batches": 0, **options}
    resumed = settings.pop("ckpt_path", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, of workers, loggers and its own imports
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=settings.pop("devices", 1),
            default_root_dir=directory,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **settings,
        )
        trainer.fit(module, ckpt_path=resumed)
    return trainer


def of_file(path: Path) -> Module:
    """The module of a checkpoint, through transformers and torch alone."""
    tree = torch.load(path, weights_only=True)
    config = tree["hyper_parameters"]["config"]
    module = Module(AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)), config=config)
    module.load_state_dict(tree["state_dict"])
    return module


def went_on(path: Path, steps: range, rise: int = 1) -> list[float]:
    """The losses of a bare loop that goes on with a grown file, the rates rising over so many steps."""
    tree, module = torch.load(path, weights_only=True), of_file(path)
    parts = module.configure_optimizers()
    optimizer, scheduler = parts["optimizer"], parts["lr_scheduler"]["scheduler"]
    scheduler.load_state_dict(tree["lr_schedulers"][0])
    optimizer.load_state_dict(tree["optimizer_states"][0])
    module.train()
    for step in steps:
        optimizer.zero_grad()
        module.step_at(step).backward()
        rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] *= min(1.0, (step - steps.start + 1) / rise)
        optimizer.step()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        scheduler.step()
    return module.losses


class ShardedModule(Module):
    """Its parameters are DTensors, each process's own part."""

    def configure_model(self) -> None:
        assert self.device_mesh is not None
        for layer in self.lm.transformer.h:
            fully_shard(layer, mesh=self.device_mesh["data_parallel"])
        fully_shard(self.lm, mesh=self.device_mesh["data_parallel"])


def fitted_by_lightning(module: Module, steps: int, directory: Path, resume: Path | None = None) -> lightning.Trainer:
    """The trainer that has trained a module up to a step, from a checkpoint on where there is one."""
    plain: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    runner = lightning.Trainer(
        max_steps=steps, accelerator="cpu", default_root_dir=directory, limit_val_batches=0, **plain
    )
    runner.fit(module, ckpt_path=None if resume is None else str(resume), weights_only=False)
    return runner


def main(directory: Path, then: Any, strategy: str) -> None:
    model = small()
    kind = ShardedModule if strategy == "sharded" else Module
    module = kind(model, config=model.config.to_dict())
    callback = LightningGrowthCallback(at_step=MOMENT, width=2, then=then)
    named = ModelParallelStrategy(save_distributed_checkpoint=False) if strategy == "sharded" else strategy
    trainer = fitted(directory, module, callback, devices=2, strategy=named)
    if trainer.is_global_zero:
        found = {"losses": module.losses, "step": trainer.global_step, "grown": str(callback.grown_checkpoint)}
        weights = {} if strategy == "sharded" else module.state_dict()
        torch.save({**found, "weights": weights}, directory / "found.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
