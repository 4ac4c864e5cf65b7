"""Composer's own files: llm-foundry's MPT through its dialect, transformers' models by the config that lies in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow.errors import CheckpointError, OptimizerError, RequestError
from ckptgrow.formats.known_formats import read_checkpoint, write_checkpoint
from ckptgrow.progress import silent
from ckptgrow.state.opening import open_state
from ckptgrow.state.translation import in_transformers_terms
from ckptgrow.storage.archives import archive, archive_writing
from ckptgrow.storage.tree import node_at, with_node
from tests.helpers.gpt2 import perturbed_gpt2
from tests.helpers.lightning_files import assert_same, trained_checkpoint
from tests.helpers.paths import ROOT
from tests.helpers.trainer_files import relative_difference, trainers_logits, transformers_logits

COMPOSER = ROOT / "fixtures" / "trainers" / "composer"
CONTENT = ("state", "integrations", "huggingface", "model", "config", "content")
FLOAT32 = 2e-6  # of the largest logit: two implementations round differently


def config_in(path: Path) -> Any:
    return node_at(archive.read(path), CONTENT)


@pytest.mark.parametrize("name", ["mpt.pt", "llama.pt"])
def test_transformers_computes_what_composer_computed(name: str) -> None:
    tokens, expected = trainers_logits(COMPOSER / name)
    assert relative_difference(transformers_logits(COMPOSER / name, tokens), expected) < FLOAT32


def test_what_is_read_is_written_back_to_the_bit(tmp_path: Path) -> None:
    there, how = in_transformers_terms(read_checkpoint(COMPOSER / "mpt.pt"))
    assert how is not None and how.dialect.name == "llm-foundry-mpt"
    write_checkpoint(how.undone(there), tmp_path / "mpt.pt", silent, force=False)
    assert_same(*(torch.load(one, weights_only=False) for one in (COMPOSER / "mpt.pt", tmp_path / "mpt.pt")))


def test_a_decay_that_does_not_follow_the_rate_has_no_lr_rule(tmp_path: Path) -> None:
    """Composer multiplies weights by 1 − weight_decay · lr / initial_lr."""
    request = ckptgrow.StateRequest(lr_rule="mup")
    with pytest.raises(OptimizerError, match=r"DecoupledAdamW decays weights by .*use lr_rule=\"keep\""):
        ckptgrow.width(COMPOSER / "llama.pt", tmp_path / "a.pt", request=request)
    assert not (tmp_path / "a.pt").exists()
    tree: Any = torch.load(COMPOSER / "llama.pt", weights_only=False)
    for group in tree["state"]["optimizers"]["DecoupledAdamW"]["param_groups"]:
        group["weight_decay"] = 0.0
    torch.save(tree, tmp_path / "no.pt")
    ckptgrow.width(tmp_path / "no.pt", tmp_path / "b.pt", request=request)


@pytest.mark.parametrize(
    ("name", "operator", "grown"),
    [
        ("mpt.pt", "depth", {"n_layers": 4}),
        ("llama.pt", "depth", {"num_hidden_layers": 4}),
        (
            "llama.pt",
            "width",
            {"hidden_size": 32, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 48},
        ),
    ],
)
def test_composers_state_grows_with_its_optimizer_and_its_config(
    tmp_path: Path, name: str, operator: str, grown: dict[str, int]
) -> None:
    source, target = COMPOSER / name, tmp_path / name
    getattr(ckptgrow, operator)(source, target, factor=2)
    report = ckptgrow.verify(source, target)
    assert report.passed and report.moments is not None
    tokens, expected = trainers_logits(source)
    assert relative_difference(transformers_logits(target, tokens), expected) < FLOAT32
    before = config_in(source)
    assert {key: config_in(target)[key] for key in before} == {**before, **grown}
    state = torch.load(target, weights_only=False)["state"]
    (optimizer,) = state["optimizers"].values()
    assert set(optimizer["state"]) == set(state["model"]) and state["timestamp"]["Timestamp"]["batch"] == 5


def test_mpt_cannot_grow_wider_for_its_positions(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="ALiBi"):
        ckptgrow.width(COMPOSER / "mpt.pt", tmp_path / "a.pt", factor=2)
    assert not (tmp_path / "a.pt").exists()


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        (("attn_config", "rope"), True, "attn_config.rope True, expected False"),
        (("no_bias",), False, "no_bias False, expected True"),
        (("ffn_config", "ffn_type"), "mptglu", "ffn_type 'mptglu'"),
    ],
)
def test_an_mpt_that_transformers_has_not_is_refused_by_what_differs(
    tmp_path: Path, keys: tuple[str, ...], value: Any, reason: str
) -> None:
    tree = with_node(archive.read(COMPOSER / "mpt.pt"), (*CONTENT, *keys), value)
    archive_writing.write(tree, tmp_path / "a.pt", lambda _: None, None)
    with pytest.raises(CheckpointError, match=reason):
        open_state(tmp_path / "a.pt", dialect="llm-foundry-mpt")


def test_what_becomes_transformers_becomes_composers_again_to_the_bit(tmp_path: Path) -> None:
    source, back = COMPOSER / "llama.pt", tmp_path / "back.pt"
    ckptgrow.convert(source, tmp_path / "hf", "huggingface")
    done = ckptgrow.convert(tmp_path / "hf", back, "composer")
    assert done.left_out == ("trainer_state.json",) and "give its Trainer AdamW" in done.notes[0]
    old, new = (torch.load(path, weights_only=False)["state"] for path in (source, back))
    for part in ("model", "schedulers", "integrations"):
        assert_same({**old[part], "tokenizer": None}, {**new[part], "tokenizer": None})
    assert list(new["model"]) == list(old["model"])
    assert new["timestamp"]["Timestamp"].items() >= {"batch": 5, "epoch": 0}.items()
    assert list(new["optimizers"]) == ["AdamW"]  # of whose options Composer's own has no others
    (before,), (after,) = (state["optimizers"].values() for state in (old, new))
    decays = [state["param_groups"][0].pop("weight_decay") for state in (before, after)]
    assert decays == [1e-5, 1e-5 / 0.01]  # of the first rate, and of the rate
    assert_same(before, after)


@pytest.mark.parametrize("tied", [True, False])
def test_a_state_of_lightnings_is_composers_with_every_name_of_the_module(tmp_path: Path, tied: bool) -> None:
    model = perturbed_gpt2(tie_word_embeddings=tied)
    source = trained_checkpoint(tmp_path / "a.ckpt", model)
    done = ckptgrow.convert(source, tmp_path / "b.pt", "composer")
    assert done.kinds == ("lightning", "torch") and not any("optimizer" in one for one in done.left_out)
    state = torch.load(tmp_path / "b.pt", weights_only=True)["state"]
    expected = model.state_dict()
    assert state["model"].keys() == {f"model.{name}" for name in expected}
    assert all(torch.equal(state["model"][f"model.{name}"], one) for name, one in expected.items())
    config = state["integrations"]["huggingface"]["model"]["config"]
    assert config["class"] == "transformers.models.gpt2.modeling_gpt2.GPT2LMHeadModel"
    (optimizer,) = state["optimizers"].values()
    assert set(optimizer["state"]) == {f"model.{name}" for name, _ in model.named_parameters()}
    ckptgrow.width(tmp_path / "b.pt", tmp_path / "c.pt", factor=2)
    assert ckptgrow.verify(tmp_path / "b.pt", tmp_path / "c.pt").passed


def test_an_optimizer_without_a_class_is_left_out_and_told(tmp_path: Path) -> None:
    source = trained_checkpoint(tmp_path / "a.ckpt", perturbed_gpt2())
    tree = torch.load(source, weights_only=True)
    for group in tree["optimizer_states"][0]["param_groups"]:
        own = {key: group[key] for key in ("lr", "betas", "eps", "weight_decay", "params")}
        group.clear()
        group |= {**own, "correct_bias": True}  # transformers' own of old
    torch.save(tree, source)
    done = ckptgrow.convert(source, tmp_path / "b.pt", "composer")
    assert "optimizer 0" in done.left_out
    assert "optimizers" not in torch.load(tmp_path / "b.pt", weights_only=True)["state"]


def test_transformers_own_mpt_is_of_no_other_trainer(tmp_path: Path) -> None:
    from transformers import MptConfig, MptForCausalLM

    MptForCausalLM(MptConfig(vocab_size=32, d_model=16, n_heads=4, n_layers=2)).save_pretrained(tmp_path / "hf")
    assert open_state(tmp_path / "hf").translation is None
