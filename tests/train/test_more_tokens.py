"""What has more tokens goes on: under transformers' Trainer, Lightning and `ckptgrow train`, from its whole state."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel

import ckptgrow
from tests.helpers.gpt2 import VOCABULARY, perturbed_gpt2
from tests.helpers.growing_modules import Module, fitted_by_lightning
from tests.helpers.trainers import trainer
from tests.helpers.training_runs import config_file, losses, tiny_data, train_here, weights

MORE = 9


@pytest.mark.slow
def test_transformers_trainer_goes_on(tmp_path: Path) -> None:
    small = trainer(tmp_path / "small", perturbed_gpt2().float().train(), 12)
    small.train()
    source, target = tmp_path / "small" / "checkpoint-6", tmp_path / "runs" / "checkpoint-6"
    target.parent.mkdir()
    ckptgrow.vocab(source, target, size=VOCABULARY + MORE)
    assert ckptgrow.verify(source, target).passed
    grown = trainer(tmp_path / "runs", GPT2LMHeadModel.from_pretrained(target).train(), 12)
    grown.train(resume_from_checkpoint=str(target))
    before, after = (
        {row["step"]: row["loss"] for row in one.state.log_history if "loss" in row} for one in (small, grown)
    )
    assert grown.state.global_step == 12
    assert before[7] - 1e-3 <= after[7] <= before[7] + math.log1p(MORE / VOCABULARY)
    assert all(after[step] < before[step] + math.log1p(MORE / VOCABULARY) for step in range(8, 13))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lightning_goes_on(tmp_path: Path) -> None:
    def fitted(size: int, steps: int, resume: Path | None = None) -> tuple[Any, Module]:
        model = perturbed_gpt2(vocab_size=size).float()
        module = Module(model, config=model.config.to_dict())
        return fitted_by_lightning(module, steps, tmp_path, resume), module

    runner, _ = fitted(40, 4)
    runner.save_checkpoint(tmp_path / "small.ckpt")
    ckptgrow.vocab(tmp_path / "small.ckpt", tmp_path / "grown.ckpt", size=40 + MORE)
    assert ckptgrow.verify(tmp_path / "small.ckpt", tmp_path / "grown.ckpt").passed
    _, small = fitted(40, 8, tmp_path / "small.ckpt")
    grown_runner, grown = fitted(40 + MORE, 8, tmp_path / "grown.ckpt")
    assert grown_runner.global_step == 8
    assert small.losses[0] < grown.losses[0] <= small.losses[0] + math.log1p(MORE / 40)


@pytest.mark.slow
def test_training_by_the_command_goes_on(tmp_path: Path) -> None:
    data, small, grown = tiny_data(tmp_path), tmp_path / "small", tmp_path / "grown"
    begin = [f"--config={config_file(tmp_path)}", f"--out={small}", "--train-steps=8", "--save-every=4"]
    train_here([f"--data={data}", *begin])
    source = small / "checkpoints" / "step-4.ckpt"
    ckptgrow.vocab(source, tmp_path / "grown.ckpt", size=256 + MORE)
    assert ckptgrow.verify(source, tmp_path / "grown.ckpt").passed
    train_here([f"--data={data}", f"--resume={tmp_path / 'grown.ckpt'}", f"--out={grown}", "--train-steps=8"])
    before, after = losses(small), losses(grown)
    first = min(after)
    assert max(after) == 8 and before[first] < after[first] <= before[first] + math.log1p(MORE / 256)
    begun, ended = (weights(path) for path in (tmp_path / "grown.ckpt", grown / "checkpoints" / "last.ckpt"))
    name = next(name for name in ended if name.endswith("wte.weight"))
    assert len(ended[name]) == 256 + MORE and not torch.equal(ended[name][256:], begun[name][256:])  # new rows train
