"""A mixture that was a dense model goes on: under transformers' Trainer, Lightning and `ckptgrow train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MixtralForCausalLM, PreTrainedModel

import ckptgrow
from tests.helpers.growing_modules import Module, fitted_by_lightning
from tests.helpers.trainers import trainer
from tests.helpers.training_runs import losses, tiny_data, train_here, weights

EXPERTS: dict[str, Any] = {"experts": 4, "shards": 2, "experts_per_token": 2}
SIZES = {
    "hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 3,
    "num_key_value_heads": 3, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
NEAR = 1e-5  # nats, of float32 losses


def small_model(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **SIZES)).train()


def routers(model: PreTrainedModel) -> list[torch.Tensor]:
    return [one.detach().clone() for name, one in model.named_parameters() if name.endswith("mlp.gate.weight")]


@pytest.mark.slow
def test_transformers_trainer_goes_on_at_the_small_models_loss(tmp_path: Path) -> None:
    def made(directory: Path, model: PreTrainedModel) -> Any:
        return trainer(directory, cast(GPT2LMHeadModel, model), 12)

    small = made(tmp_path / "small", small_model(40))
    small.train()
    source, target = tmp_path / "small" / "checkpoint-6", tmp_path / "runs" / "checkpoint-6"
    target.parent.mkdir()
    ckptgrow.experts(source, target, **EXPERTS)
    assert ckptgrow.verify(source, target).passed
    model = MixtralForCausalLM.from_pretrained(target).train()
    before = routers(model)
    grown = made(tmp_path / "runs", model)
    grown.train(resume_from_checkpoint=str(target))
    old, new = ({row["step"]: row["loss"] for row in one.state.log_history if "loss" in row} for one in (small, grown))
    assert grown.state.global_step == 12
    assert new[7] == pytest.approx(old[7], abs=2e-3)  # it logs four digits
    assert all(new[step] < old[step] + 0.1 for step in range(8, 13))
    assert not any(torch.equal(one, other) for one, other in zip(before, routers(model), strict=True))
    names = {name for name, _ in model.named_parameters()}
    groups = grown.optimizer.param_groups
    assert sum(len(group["params"]) for group in groups) == len(names)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lightning_goes_on_at_the_small_models_loss(tmp_path: Path) -> None:
    def fitted(model: PreTrainedModel, steps: int, resume: Path | None = None) -> tuple[Any, Module]:
        module = Module(model, config=model.config.to_dict())
        return fitted_by_lightning(module, steps, tmp_path, resume), module

    runner, _ = fitted(small_model(40), 4)
    runner.save_checkpoint(tmp_path / "small.ckpt")
    done = ckptgrow.experts(tmp_path / "small.ckpt", tmp_path / "grown.ckpt", **EXPERTS)
    assert ckptgrow.verify(tmp_path / "small.ckpt", tmp_path / "grown.ckpt").passed
    _, small = fitted(small_model(40), 8, tmp_path / "small.ckpt")
    fields = {key: value for key, value in done.config.items() if key != "model_type"}
    model = MixtralForCausalLM(MixtralForCausalLM.config_class(**fields))
    grown_runner, grown = fitted(model, 8, tmp_path / "grown.ckpt")
    assert grown_runner.global_step == 8
    assert grown.losses[0] == pytest.approx(small.losses[0], abs=NEAR)


@pytest.mark.slow
def test_training_by_the_command_goes_on_at_the_small_models_loss(tmp_path: Path) -> None:
    data, small, grown = tiny_data(tmp_path), tmp_path / "small", tmp_path / "grown"
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "llama", "vocab_size": 256, **SIZES}))
    train_here([f"--data={data}", f"--config={config}", f"--out={small}", "--train-steps=8", "--save-every=4"])
    source = small / "checkpoints" / "step-4.ckpt"
    ckptgrow.experts(source, tmp_path / "grown.ckpt", **EXPERTS)
    assert ckptgrow.verify(source, tmp_path / "grown.ckpt").passed
    train_here([f"--data={data}", f"--resume={tmp_path / 'grown.ckpt'}", f"--out={grown}", "--train-steps=8"])
    before, after = losses(small), losses(grown)
    first = min(after)
    assert max(after) == 8 and after[first] == pytest.approx(before[first], abs=NEAR)
    begun, ended = (weights(path) for path in (tmp_path / "grown.ckpt", grown / "checkpoints" / "last.ckpt"))
    changed = [name for name in ended if name.endswith(("mlp.gate.weight", "experts.down_proj"))]
    assert changed and not any(torch.equal(ended[name], begun[name]) for name in changed)
