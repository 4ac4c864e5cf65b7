"""Conversion between kinds: bit for bit there and back, loadable by the other kind's own trainer, losses listed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import ckptgrow
from ckptgrow.cli import run
from ckptgrow.errors import RequestError
from tests.helpers import families
from tests.helpers.gpt2 import gpt2_config, largest_logit_difference, perturbed_gpt2, token_batches
from tests.helpers.lightning_files import assert_same, save_lightning, state_of, trained_checkpoint
from tests.helpers.trainers import trainer


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_round_trip_from_lightning_is_equal_to_the_bit(tmp_path: Path, tied: bool) -> None:
    source = trained_checkpoint(tmp_path / "a.ckpt", perturbed_gpt2(tie_word_embeddings=tied))
    there = ckptgrow.convert(source, tmp_path / "b", "huggingface")
    assert there.kinds == ("lightning", "huggingface")
    assert there.left_out == ("loops",)
    back = ckptgrow.convert(tmp_path / "b", tmp_path / "c.ckpt", "lightning")
    assert back.left_out == ("trainer_state.json",)
    assert_same(state_of(source), state_of(tmp_path / "c.ckpt"))


def test_the_directory_loads_in_transformers_with_the_same_function(tmp_path: Path) -> None:
    model = perturbed_gpt2()
    source = trained_checkpoint(tmp_path / "a.ckpt", model)
    ckptgrow.convert(source, tmp_path / "b", "huggingface")
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "b", output_loading_info=True, dtype="auto")
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert largest_logit_difference(model, loaded.eval()) == 0


@pytest.fixture(scope="module")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trained")
    trainer(directory, perturbed_gpt2().float().train(), 6).train()
    return directory / "checkpoint-6"


def test_a_round_trip_from_a_trainers_checkpoint_is_equal_to_the_bit(tmp_path: Path, trainers: Path) -> None:
    there = ckptgrow.convert(trainers, tmp_path / "b.ckpt", "lightning")
    assert {"rng_state.pth", "training_args.bin", "trainer_state.json"} <= set(there.left_out)
    ckptgrow.convert(tmp_path / "b.ckpt", tmp_path / "c", "huggingface")
    for name in ("optimizer.pt", "scheduler.pt"):
        one, other = (torch.load(path / name, weights_only=True) for path in (trainers, tmp_path / "c"))
        assert_same(one, other, name)
    one, other = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (trainers, tmp_path / "c"))
    assert_same(dict(one), dict(other))
    report = ckptgrow.verify(trainers, tmp_path / "c")
    lost = {line.split()[2] for line in report.structure.problems if line.startswith("the file")}
    assert lost == {"generation_config.json", "rng_state.pth", "training_args.bin"}
    assert report.moments is not None and report.moments.passed and ckptgrow.inspect(tmp_path / "c").global_step == 6


def test_a_converted_trainers_checkpoint_resumes_in_the_trainer(tmp_path: Path, trainers: Path) -> None:
    ckptgrow.convert(trainers, tmp_path / "b.ckpt", "lightning")
    target = tmp_path / "runs" / "checkpoint-6"
    target.parent.mkdir()
    ckptgrow.convert(tmp_path / "b.ckpt", target, "huggingface")
    runner = trainer(tmp_path / "runs", GPT2LMHeadModel.from_pretrained(target).train(), 8)
    runner.train(resume_from_checkpoint=str(target))
    assert runner.state.global_step == 8
    assert {float(record["step"]) for record in runner.optimizer.state.values()} == {8.0}


class Language(lightning.LightningModule):
    """As users write it, with the Trainer's two groups."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = GPT2LMHeadModel(GPT2Config(**config))
        self.losses: list[float] = []

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        loss = self.model(input_ids=batch, labels=batch).loss
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> Any:
        decayed = [one for one in self.parameters() if one.dim() > 1]
        others = [one for one in self.parameters() if one.dim() < 2]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=2e-3)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)}]


def test_a_converted_trainers_checkpoint_resumes_in_lightning(tmp_path: Path, trainers: Path) -> None:
    ckptgrow.convert(trainers, tmp_path / "b.ckpt", "lightning")
    module = Language(gpt2_config().to_dict())
    runner = lightning.Trainer(
        max_steps=8,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner.fit(
            module,
            torch.utils.data.DataLoader(torch.cat(token_batches(8)), batch_size=2),
            ckpt_path=tmp_path / "b.ckpt",
        )
    assert runner.global_step == 8 and len(module.losses) == 2
    optimizer = runner.optimizers[0]
    assert {float(record["step"]) for record in optimizer.state.values()} == {8.0}


def test_what_the_target_cannot_hold_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scaler = {
        "scale": 1024.0,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 2000,
        "_growth_tracker": 3,
    }
    model = perturbed_gpt2()
    average = {f"ema.{name}": tensor for name, tensor in model.state_dict().items()}
    source = trained_checkpoint(
        tmp_path / "a.ckpt", model, callbacks={"EarlyStopping": {"wait": 2}}, MixedPrecision=scaler
    )
    tree = torch.load(source, weights_only=True)
    tree["state_dict"].update(average)
    tree["hyper_parameters"]["dataset"] = "somewhere"
    torch.save(tree, source)
    done = ckptgrow.convert(source, tmp_path / "b", "huggingface")
    averaged = f"ema. ({len(average)} tensors of an average of the weights)"
    assert {"callbacks", "loops", "hyper_parameters['dataset']", averaged} <= set(done.left_out)
    assert not any("wpe" in one for one in done.left_out)
    assert torch.load(tmp_path / "b" / "scaler.pt", weights_only=True) == scaler
    assert run(["convert", str(tmp_path / "b"), str(tmp_path / "c.ckpt"), "--to", "lightning"]) == 0
    assert "left out" in capsys.readouterr().out
    assert torch.load(tmp_path / "c.ckpt", weights_only=True)["MixedPrecision"] == scaler


def test_weights_in_old_files_stay_behind_and_it_is_said(tmp_path: Path) -> None:
    perturbed_gpt2().save_pretrained(tmp_path / "small")
    (tmp_path / "small" / "tf_model.h5").write_bytes(b"old weights")
    torch.save({}, tmp_path / "small" / "pytorch_model.bin")
    (tmp_path / "small" / "onnx").mkdir()
    done = ckptgrow.width(tmp_path / "small", tmp_path / "grown", noise=0)
    assert any("onnx, pytorch_model.bin, tf_model.h5" in note for note in done.notes)
    names = {one.name for one in (tmp_path / "grown").iterdir()}
    assert not names & {"tf_model.h5", "pytorch_model.bin", "onnx"}


def test_unknown_targets_are_refused(tmp_path: Path) -> None:
    source = trained_checkpoint(tmp_path / "a.ckpt", perturbed_gpt2())
    with pytest.raises(RequestError, match='to="keras": expected'):
        ckptgrow.convert(source, tmp_path / "b", "keras")


@pytest.mark.parametrize("says_tied", [True, False])
def test_t5s_head_comes_back_whatever_its_config_says(tmp_path: Path, says_tied: bool) -> None:
    """Transformers ties T5's head wherever a directory lacks it."""
    model = families.perturbed("t5")
    tree = {"config": {**model.config.to_dict(), "tie_word_embeddings": says_tied}}
    source = save_lightning(tmp_path / "small.ckpt", model, hyper_parameters=tree)
    ckptgrow.convert(source, tmp_path / "hf", to="huggingface")
    ckptgrow.convert(tmp_path / "hf", tmp_path / "back.ckpt", to="lightning")
    before, after = (torch.load(path, weights_only=True)["state_dict"] for path in (source, tmp_path / "back.ckpt"))
    assert before.keys() == after.keys() and "model.lm_head.weight" in after
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("case", families.FIRST)
def test_a_directory_becomes_a_file_with_the_modules_own_names(tmp_path: Path, case: str) -> None:
    """`save_pretrained` writes some families under names that no module has."""
    model = families.perturbed(case)
    model.save_pretrained(tmp_path / "hf")
    ckptgrow.convert(tmp_path / "hf", tmp_path / "out.ckpt", to="lightning")
    tensors = torch.load(tmp_path / "out.ckpt", weights_only=True)["state_dict"]
    expected = model.state_dict()
    assert tensors.keys() == {f"model.{name}" for name in expected}
    assert all(torch.equal(tensors[f"model.{name}"], one) for name, one in expected.items())
