"""Hugging Face directories: written by save_pretrained and the real Trainer, read back by both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2LMHeadModel, GPT2Model, Trainer

import ckptgrow
from ckptgrow import Settings, StateRequest
from ckptgrow.errors import CheckpointError, RequestError
from ckptgrow.train import parameter_groups
from tests.helpers.gpt2 import gpt2_config, largest_logit_difference, perturbed_gpt2
from tests.helpers.trainers import trainer


def of_directory(path: Path) -> tuple[GPT2LMHeadModel, dict[str, Any]]:
    model, info = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True, dtype="auto")
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return model.eval(), info


@pytest.mark.parametrize("shard", [10**9, 5_000], ids=["one file", "shards"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_model_directory_grows_and_loads_without_a_warning(tmp_path: Path, shard: int, tied: bool) -> None:
    small = perturbed_gpt2(tie_word_embeddings=tied)
    small.save_pretrained(tmp_path / "small", max_shard_size=shard)
    (tmp_path / "small" / "tokenizer.json").write_text('{"made": "up"}')
    request = StateRequest(max_shard_bytes=shard)
    done = ckptgrow.width(tmp_path / "small", tmp_path / "grown", factor=3, noise=0, request=request)
    assert any("no optimizer state" in note for note in done.notes)
    grown, _ = of_directory(tmp_path / "grown")
    assert grown.config.n_embd == 36 and grown.dtype == torch.float64
    assert largest_logit_difference(small, grown) <= 1e-12
    assert (tmp_path / "grown" / "tokenizer.json").read_text() == '{"made": "up"}'
    assert (tmp_path / "grown" / "generation_config.json").exists()
    sizes = [file.stat().st_size for file in (tmp_path / "grown").glob("*.safetensors")]
    assert (len(sizes) > 1) is (shard < 10**6)
    assert ckptgrow.verify(tmp_path / "small", tmp_path / "grown").passed
    assert ckptgrow.inspect(tmp_path / "grown").kind == "huggingface"


def test_the_backbone_alone_as_on_the_hub_grows(tmp_path: Path) -> None:
    """The released gpt2 names its tensors without `transformer.` and has no head."""
    torch.manual_seed(0)
    GPT2Model(gpt2_config()).double().save_pretrained(tmp_path / "small")
    ckptgrow.depth(tmp_path / "small", tmp_path / "grown", new="zero-norm")
    assert "h.3.attn.c_attn.weight" in load_file(tmp_path / "grown" / "model.safetensors")
    assert ckptgrow.verify(tmp_path / "small", tmp_path / "grown").passed


def test_weights_written_by_torch_save_are_read(tmp_path: Path) -> None:
    small = perturbed_gpt2()
    small.config.save_pretrained(tmp_path / "small")
    torch.save(small.state_dict(), tmp_path / "small" / "pytorch_model.bin")
    ckptgrow.width(tmp_path / "small", tmp_path / "grown", noise=0)
    assert largest_logit_difference(small, of_directory(tmp_path / "grown")[0]) <= 1e-12
    assert not (tmp_path / "grown" / "pytorch_model.bin").exists()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dtypes_stay(tmp_path: Path, dtype: torch.dtype) -> None:
    perturbed_gpt2().to(dtype).save_pretrained(tmp_path / "small")
    ckptgrow.width(tmp_path / "small", tmp_path / "grown", noise=0)
    assert of_directory(tmp_path / "grown")[0].dtype == dtype


def logged(runner: Trainer) -> dict[int, dict[str, float]]:
    return {entry["step"]: entry for entry in runner.state.log_history if "loss" in entry}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, dict[str, float]]]:
    """A real Trainer's checkpoint at step 6 of 12, and the log of the whole run."""
    directory = tmp_path_factory.mktemp("trained")
    runner = trainer(directory, perturbed_gpt2().float().train(), 12)
    runner.train()
    return directory / "checkpoint-6", logged(runner)


@pytest.mark.parametrize("operator", ["width", "depth"])
def test_a_trainers_checkpoint_resumes_where_it_was(
    tmp_path: Path, trained: tuple[Path, dict[int, dict[str, float]]], operator: str
) -> None:
    source, small_log = trained
    target = tmp_path / "runs" / "checkpoint-6"
    target.parent.mkdir()
    if operator == "width":
        ckptgrow.width(source, target, noise=0)
    else:
        ckptgrow.depth(source, target)
    assert ckptgrow.inspect(target).kind == "trainer"
    report = ckptgrow.verify(source, target, settings=Settings(steps=2))
    assert report.passed, report.sentences
    for name in ("training_args.bin", "rng_state.pth", "trainer_state.json"):
        assert (target / name).read_bytes() == (source / name).read_bytes()

    grown = GPT2LMHeadModel.from_pretrained(target)
    runner = trainer(tmp_path / "runs", grown.train(), 12)
    runner.train(resume_from_checkpoint=str(target))
    log = logged(runner)
    assert runner.state.global_step == 12
    assert log[7]["loss"] == pytest.approx(small_log[7]["loss"], rel=1e-4)  # logged with 4 digits
    for step in range(7, 13):
        assert log[step]["learning_rate"] == pytest.approx(small_log[step]["learning_rate"], rel=1e-9)
    records = runner.optimizer.state
    steps = {float(record["step"]) for record in records.values()}
    assert steps == ({12.0} if operator == "width" else {12.0, 6.0})


def test_a_trainer_with_the_grown_groups_keeps_the_trajectory(
    tmp_path: Path, trained: tuple[Path, dict[int, dict[str, float]]]
) -> None:
    source, small_log = trained
    target = tmp_path / "runs" / "checkpoint-6"
    target.parent.mkdir()
    done = ckptgrow.width(source, target, noise=0, request=StateRequest(lr_rule="mup"))
    assert any("where the Trainer makes two" in note for note in done.notes)
    grown = GPT2LMHeadModel.from_pretrained(target).train()
    groups = parameter_groups(grown, torch.load(target / "optimizer.pt", weights_only=True))
    runner = trainer(tmp_path / "runs", grown, 12, optimizers=(torch.optim.AdamW(groups), None))
    runner.train(resume_from_checkpoint=str(target))
    log = logged(runner)
    for step in range(7, 13):
        assert log[step]["loss"] == pytest.approx(small_log[step]["loss"], rel=2e-4)  # logged with 4 digits


def test_a_trainers_schedule_moves_and_its_place_in_the_data_stays(
    tmp_path: Path, trained: tuple[Path, dict[int, dict[str, float]]]
) -> None:
    source, _ = trained
    with pytest.raises(RequestError, match=r"function is in your script.*schedule"):
        ckptgrow.width(source, tmp_path / "grown", noise=0, request=StateRequest(step=4))
    total = json.loads((source / "trainer_state.json").read_text())["max_steps"]
    request = StateRequest(step=4, schedule=f"linear:warmup=3,total={total}")
    ckptgrow.width(source, tmp_path / "grown", noise=0, request=request)
    scheduler = torch.load(tmp_path / "grown" / "scheduler.pt", weights_only=True)
    optimizer = torch.load(tmp_path / "grown" / "optimizer.pt", weights_only=True)
    assert scheduler["last_epoch"] == 4
    rate = pytest.approx(2e-3 * (total - 4) / (total - 3))
    assert [group["lr"] for group in optimizer["param_groups"]] == scheduler["_last_lr"] == [rate] * 2
    assert {float(record["step"]) for record in optimizer["state"].values()} == {4.0}
    assert json.loads((tmp_path / "grown" / "trainer_state.json").read_text())["global_step"] == 6
    assert ckptgrow.verify(source, tmp_path / "grown").passed


def test_history_is_kept_beside_the_weights(tmp_path: Path) -> None:
    perturbed_gpt2().save_pretrained(tmp_path / "one")
    ckptgrow.width(tmp_path / "one", tmp_path / "two", noise=0)
    ckptgrow.depth(tmp_path / "two", tmp_path / "three")
    assert [entry["operator"] for entry in ckptgrow.inspect(tmp_path / "three").history] == ["width", "depth"]


def spoil_index(directory: Path, edit: Any) -> None:
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    edit(index, directory)
    path.write_text(json.dumps(index))


def lead_out(index: dict[str, Any], directory: Path) -> None:
    name = next(iter(index["weight_map"].values()))
    shutil.copy(directory / name, directory.parent / name)
    index["weight_map"] = {key: f"../{shard}" for key, shard in index["weight_map"].items()}


def lose_a_shard(index: dict[str, Any], directory: Path) -> None:
    (directory / sorted(set(index["weight_map"].values()))[0]).unlink()


def name_a_tensor_too_many(index: dict[str, Any], directory: Path) -> None:
    index["weight_map"]["ghost"] = next(iter(index["weight_map"].values()))


@pytest.mark.parametrize(
    ("edit", "words"),
    [(lead_out, "beside the index"), (lose_a_shard, "missing"), (name_a_tensor_too_many, "ghost")],
)
def test_indices_that_lie_are_refused(tmp_path: Path, edit: Any, words: str) -> None:
    perturbed_gpt2().save_pretrained(tmp_path / "small", max_shard_size=5_000)
    spoil_index(tmp_path / "small", edit)
    with pytest.raises(CheckpointError, match=words):
        ckptgrow.width(tmp_path / "small", tmp_path / "grown")
    assert not (tmp_path / "grown").exists()


def test_an_empty_directory_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="not a checkpoint of a known kind"):
        ckptgrow.inspect(tmp_path / "empty")
