"""Other trainers' files become transformers' and theirs again, to the bit; what a trainer cannot say is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig

import ckptgrow
from ckptgrow.cli import run
from ckptgrow.dialects.known_dialects import DIALECTS
from ckptgrow.errors import CheckpointError, RequestError
from ckptgrow.formats.known_formats import read_checkpoint
from ckptgrow.state.cover import names_in_module_order
from ckptgrow.state.translation import in_transformers_terms
from tests.helpers.distributed import tensors_by_name, tensors_of
from tests.helpers.lightning_files import assert_same
from tests.helpers.trainer_files import (
    OLMO_CORE,
    SAMPLES,
    TORCHTITAN,
    TORCHTUNE,
    config_beside,
    relative_difference,
    trainers_logits,
    transformers_logits,
)

FLOAT32 = 4e-6  # of the largest logit: two implementations round differently


def there_and_back(name: str, directory: Path) -> tuple[Path, Path]:
    source = SAMPLES[name]
    trainer = "olmo-core" if name in OLMO_CORE else name.partition("-")[0]
    ckptgrow.convert(source, directory / "hf", "huggingface", config=config_beside(source))
    ckptgrow.convert(directory / "hf", directory / source.name, trainer)  # type: ignore[arg-type]
    return source, directory / source.name


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", [name for name in SAMPLES if not name.endswith("_hf")])
def test_what_becomes_transformers_becomes_the_trainers_again_to_the_bit(tmp_path: Path, name: str) -> None:
    source, back = there_and_back(name, tmp_path)
    if name in OLMO_CORE:
        assert_same(*(tensors_by_name(one / "model_and_optim") for one in (source, back)))
    elif name in TORCHTITAN:
        old, new = tensors_of(source), tensors_of(back)
        kept = [key for key in old if "train_state" not in key]
        assert_same({key: old[key] for key in kept}, {key: new[key] for key in kept})
    elif name in TORCHTUNE:
        for file in ("model-00001-of-00001.bin", "recipe_state.pt"):
            old, new = (torch.load(one / file, weights_only=True) for one in (source, back))
            told = ("seed", "epochs_run", "total_epochs", *(("optimizer",) if name == "torchtune-qwen3" else ()))
            kept = [key for key in old if key not in told]  # the optimizer of several devices is by name
            assert_same({key: old[key] for key in kept}, {key: new[key] for key in kept})
        assert json.loads((back / "config.json").read_text())["hidden_size"] == 16
    else:
        file = "" if source.is_file() else "lit_model.pth"
        old, new = (torch.load(one / file if file else one, weights_only=True) for one in (source, back))
        steps = "step_count" if file else "iter_num"
        for part in ("model", "optimizer", steps) if "optimizer" in old else ("model",):
            assert_same(old[part], new[part])
        assert list(new["model"]) == list(old["model"])
    tokens, expected = trainers_logits(source)
    config = config_beside(source)
    state = in_transformers_terms(read_checkpoint(back), config)[1]
    assert state is not None
    if config is None:
        assert relative_difference(transformers_logits(back, tokens), expected) < FLOAT32


@pytest.mark.parametrize("name", [name for name in SAMPLES if name not in TORCHTITAN and not name.endswith("_hf")])
def test_rows_stand_in_the_order_of_the_trainers_module(name: str) -> None:
    """By which torch numbers an optimizer's parameters."""
    checkpoint = read_checkpoint(SAMPLES[name])
    found = in_transformers_terms(checkpoint)[1]
    assert found is not None
    cover = found.terms.cover
    order = names_in_module_order(found.dialect.rows, cover.num_layers, cover.num_experts)
    assert [one for one in order if one in checkpoint.tensors] == list(checkpoint.tensors)


def test_the_trainers_config_is_written_whole(tmp_path: Path) -> None:
    _, back = there_and_back("nanogpt", tmp_path)
    old, new = (torch.load(path, weights_only=True) for path in (SAMPLES["nanogpt"], back))
    assert new["model_args"] == old["model_args"] and new.keys() == old.keys()


def saved(model: Any, path: Path, optimizer: torch.optim.Optimizer | None = None) -> Path:
    model.save_pretrained(path)
    if optimizer is not None:
        torch.save(optimizer.state_dict(), path / "optimizer.pt")
        (path / "trainer_state.json").write_text(json.dumps({"global_step": 1, "epoch": 0.0}))
    return path


def llama(**fields: Any) -> Any:
    sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1}
    return AutoModelForCausalLM.from_config(LlamaConfig(**{**sizes, "num_attention_heads": 2, **fields}))


def stepped(model: Any, groups: Any) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    model(torch.arange(6)[None], labels=torch.arange(6)[None]).loss.backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("fields", "trainer", "reason"),
    [
        ({"rms_norm_eps": 1e-6, "hidden_act": "gelu"}, "litgpt", "cannot say hidden_act 'gelu'"),
        ({"hidden_act": "gelu"}, "torchtitan", "hidden_act is 'gelu', expected 'silu'"),
        ({"attention_bias": True}, "litgpt", "has no place for|cannot say attention_bias"),
        ({}, "nanogpt", "is a llama, expected gpt2"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
            "litgpt",
            "cannot say rope_parameters",
        ),
    ],
)
def test_a_model_that_a_trainer_cannot_say_is_refused(
    tmp_path: Path, fields: dict[str, Any], trainer: Any, reason: str
) -> None:
    source = saved(llama(**fields), tmp_path / "hf")
    with pytest.raises(RequestError, match=reason):
        ckptgrow.convert(source, tmp_path / ("out.pt" if trainer == "nanogpt" else "out"), trainer)
    assert [one.name for one in tmp_path.iterdir()] == ["hf"]


def test_groups_that_a_trainer_has_not_are_left_out_and_told(tmp_path: Path) -> None:
    model = llama()
    named = list(model.named_parameters())
    groups = [
        {"params": [one for _, one in named if one.dim() > 1], "weight_decay": 0.1},
        {"params": [one for _, one in named if one.dim() == 1], "weight_decay": 0.0},
    ]
    source = saved(model, tmp_path / "hf", stepped(model, groups))
    done = ckptgrow.convert(source, tmp_path / "out", "litgpt")
    assert any("groups are others than the trainer's" in one for one in done.left_out)
    assert "optimizer" not in torch.load(tmp_path / "out" / "lit_model.pth", weights_only=True)


def test_a_head_that_is_tied_needs_a_trainer_that_ties_it(tmp_path: Path) -> None:
    model = llama(tie_word_embeddings=True)
    source = saved(model, tmp_path / "hf", stepped(model, model.parameters()))
    with pytest.raises(RequestError, match="its head is its embedding"):
        ckptgrow.convert(source, tmp_path / "out", "torchtitan")


def test_biases_of_a_new_model_are_the_models_own(tmp_path: Path) -> None:
    """They are zero, and no training tells that they would stay so."""
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2, activation_function="gelu")
    )
    ckptgrow.convert(saved(model, tmp_path / "hf"), tmp_path / "ckpt.pt", "nanogpt")
    state = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    assert state["model_args"]["bias"] is True and "transformer.h.0.mlp.c_fc.bias" in state["model"]
    assert torch.equal(state["model"]["lm_head.weight"], state["model"]["transformer.wte.weight"])
    with pytest.raises(RequestError, match="cannot say activation_function 'gelu_new'"):
        other = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2))
        ckptgrow.convert(saved(other, tmp_path / "other"), tmp_path / "other.pt", "nanogpt")


def test_the_list_says_what_goes_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "--list"]) == 0
    shown = capsys.readouterr().out
    families = sorted({name for one in DIALECTS.values() if one.trainer == "litgpt" for name in one.model_types})
    assert f"litgpt       a directory with files of torch.save: {', '.join(families)}" in shown
    assert run(["convert"]) == 2
    assert "pass --list" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "word"), [("litgpt-gemma", "Gemma"), ("litgpt-olmo", "OLMo")])
def test_litgpt_chooses_norms_by_a_word_in_the_models_name(tmp_path: Path, name: str, word: str) -> None:
    _, back = there_and_back(name, tmp_path)
    config = yaml.safe_load((back / "model_config.yaml").read_text())
    assert word in config["name"]
    (back / "model_config.yaml").write_text(yaml.safe_dump({**config, "name": "mine"}))
    with pytest.raises(CheckpointError, match=f"name 'mine', expected one with {word}"):
        in_transformers_terms(read_checkpoint(back), None, name)
