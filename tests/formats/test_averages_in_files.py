"""Averages of the weights where the usual libraries keep them: found, grown with the weights, and judged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from ema_pytorch import EMA
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from torch.optim.swa_utils import AveragedModel
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

import ckptgrow
from tests.helpers.gpt2 import language_loss, largest_logit_difference, perturbed_gpt2, token_batches, train

Tree = dict[str, Any]


def as_timm(model: PreTrainedModel) -> torch.nn.Module:
    """timm's ModelEmaV2 and V3 are modules whose `module` is a copy of the model."""
    average = torch.nn.Module()
    average.module = copy.deepcopy(model)
    return average


def as_diffusers(model: PreTrainedModel) -> Tree:
    """EMAModel.state_dict() of diffusers 0.42: numbers, and the average's tensors in the order of the parameters."""
    shadows = [parameter.detach().clone() for parameter in model.parameters()]
    numbers = {"decay": 0.9, "min_decay": 0.0, "optimization_step": 4, "update_after_step": 0, "power": 2 / 3}
    return {**numbers, "use_ema_warmup": False, "inv_gamma": 1.0, "shadow_params": shadows}


def with_words(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> Tree:
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": 4,
        "config": model.config.to_dict(),
    }


Kept = Callable[[PreTrainedModel, PreTrainedModel, torch.optim.Optimizer], Tree]
KINDS: dict[str, tuple[Kept, Callable[[Tree, Any], Any]]] = {
    "torch": (
        lambda model, average, optimizer: {**with_words(model, optimizer), "swa": AveragedModel(average).state_dict()},
        lambda tree, names: {name: tree["swa"][f"module.{name}"] for name in names},
    ),
    "timm, beside": (
        lambda model, average, optimizer: {**with_words(model, optimizer), "ema": as_timm(average).state_dict()},
        lambda tree, names: {name: tree["ema"][f"module.{name}"] for name in names},
    ),
    "timm, its saver": (
        lambda model, average, optimizer: {
            "epoch": 3,
            "arch": "gpt2",
            "state_dict": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "version": 2,
            "state_dict_ema": average.state_dict(),
            "metric": 1.0,
            "config": model.config.to_dict(),
        },
        lambda tree, names: {name: tree["state_dict_ema"][name] for name in names},
    ),
    "diffusers": (
        lambda model, average, optimizer: {**with_words(model, optimizer), "ema": as_diffusers(average)},
        lambda tree, names: dict(
            zip([name for name in names if name != "lm_head.weight"], tree["ema"]["shadow_params"], strict=True)
        ),
    ),
}


def averaged(model: PreTrainedModel) -> PreTrainedModel:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.8).add_(0.03)
    return other


def as_model(tree: Tree, tensors: Tree) -> PreTrainedModel:
    model = GPT2LMHeadModel(GPT2Config(**tree["config"])).double().eval()
    model.load_state_dict({**tensors, "lm_head.weight": tensors["transformer.wte.weight"]})
    return model


def tampered(tree: Any, value: float) -> bool:
    """Adds to the first matrix that comes up; whether there was one."""
    if isinstance(tree, torch.Tensor) and tree.dim() == 2:
        tree[0, 0] += value
        return True
    nodes = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return any(tampered(one, value) for one in nodes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operator", ["width", "depth"])
def test_an_average_computes_what_it_did(tmp_path: Path, kind: str, operator: str) -> None:
    keep, average_in = KINDS[kind]
    model = perturbed_gpt2(n_layer=2, n_embd=6, n_inner=10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    train(model, optimizer, token_batches(3))
    average = averaged(model)
    source, target = tmp_path / "small.pt", tmp_path / "grown.pt"
    torch.save(keep(model, average, optimizer), source)
    if operator == "width":
        ckptgrow.width(source, target)
    else:
        ckptgrow.depth(source, target, place="append")
    tree = torch.load(target, weights_only=True)
    names = tree.get("model", tree.get("state_dict"))
    grown = as_model(tree, average_in(tree, names))
    assert largest_logit_difference(average, grown) <= 1e-12
    report = ckptgrow.verify(source, target)
    assert report.passed, report.sentences
    assert tampered({key: value for key, value in tree.items() if key in ("swa", "ema", "state_dict_ema")}, 1e-3)
    torch.save(tree, target)
    assert not ckptgrow.verify(source, target).passed


@pytest.mark.parametrize("online", [True, False])
def test_ema_pytorchs_own_object_loads_its_grown_state(tmp_path: Path, online: bool) -> None:
    model = perturbed_gpt2(n_layer=1, n_embd=6, n_inner=10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    own: Any = {"beta": 0.9, "update_after_step": 0, "update_every": 1, "include_online_model": online}
    average = EMA(model, **own)
    for tokens in token_batches(4):
        train(model, optimizer, [tokens])
        average.update()
    source, target = tmp_path / "small.pt", tmp_path / "grown.pt"
    torch.save({**with_words(model, optimizer), "ema": average.state_dict()}, source)
    ckptgrow.width(source, target)
    tree = torch.load(target, weights_only=True)
    grown = EMA(as_model(tree, tree["model"]), **own)
    grown.load_state_dict(tree["ema"])
    assert int(grown.step) == int(average.step)
    assert largest_logit_difference(average.ema_model, grown.ema_model) <= 1e-12  # pyright: ignore[reportArgumentType]
    report = ckptgrow.verify(source, target)
    assert report.passed, report.sentences


class Module(lightning.LightningModule):
    def __init__(self, config: Tree) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = GPT2LMHeadModel(GPT2Config(**config)).double()

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        return language_loss(self.model, batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.stack(list(token_batches(4))), batch_size=1)


def fitted(module: Module, callback: Any, epochs: int, path: Path | None = None) -> lightning.Trainer:
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
    )
    trainer.fit(module, ckpt_path=None if path is None else str(path))
    return trainer


class Saving(lightning.Callback):
    """Saves while the averages are alive, as checkpoints of a run are."""

    def __init__(self, path: Path, epoch: int) -> None:
        self.path, self.epoch = path, epoch

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("kind", ["exponential", "stochastic"])
def test_lightnings_callbacks_resume_with_the_grown_average(tmp_path: Path, kind: str) -> None:
    lightning.seed_everything(1, verbose=False)

    def callback() -> Any:
        if kind == "exponential":
            return EMAWeightAveraging(decay=0.9)
        return StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1, annealing_epochs=2)

    source, target = tmp_path / "small.ckpt", tmp_path / "grown.ckpt"
    own = callback()
    module = Module(perturbed_gpt2(n_layer=1, n_embd=6, n_inner=10).config.to_dict())
    trainer = lightning.Trainer(
        max_epochs=4,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[own, Saving(source, 2)],
    )
    trainer.fit(module)
    ckptgrow.width(source, target)
    report = ckptgrow.verify(source, target)
    assert report.passed, report.sentences
    old, new = (torch.load(path, weights_only=True) for path in (source, target))

    def average(tree: Tree) -> PreTrainedModel:
        state = tree["state_dict"]
        if kind == "stochastic":
            state = tree["callbacks"]["StochasticWeightAveraging"]["average_model_state"]
        own = {name.removeprefix("model."): tensor for name, tensor in state.items()}
        return as_model({"config": tree["hyper_parameters"]["config"]}, own)

    assert largest_logit_difference(average(old), average(new)) <= 1e-12
    grown = Module(new["hyper_parameters"]["config"])
    runner = fitted(grown, callback(), 4, target)
    assert runner.global_step == trainer.global_step
