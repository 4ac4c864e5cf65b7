"""`--dialect FILE` wherever a checkpoint is read: a file that only its user knows is evaluated and trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ckptgrow.cli import run
from ckptgrow.planning.model_size import model_size
from tests.helpers.own_dialect import MINE, WORDS, written

FIELDS = {"layers": 2, "width": 16, "heads": 4, "kv": 2, "ffn": 24, "vocab": 256, "bias": False}


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        num_hidden_layers=2,
        hidden_size=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=24,
        vocab_size=256,
        rms_norm_eps=1e-5,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, model: LlamaForCausalLM) -> Path:
    """The model under names of nobody's, in a directory with its dialect and data."""
    folder = tmp_path_factory.mktemp("own")
    weights = model.state_dict()
    theirs: dict[str, torch.Tensor] = {}
    for row in MINE["rows"]:
        for layer in range(2) if "{layer}" in row["theirs"] else (0,):
            ours = [row["ours"]] if isinstance(row["ours"], str) else row["ours"]
            parts = [weights[name.replace("{layer}", str(layer))] for name in ours]
            theirs[row["theirs"].replace("{layer}", str(layer))] = torch.cat(parts)
    torch.save({"model": theirs, "sizes": FIELDS}, folder / "own.pt")
    written(folder / "mine.yaml", MINE)
    (folder / "text.txt").write_text("\n".join(f"the {number}th line of a text" for number in range(200)))
    assert run(["data", str(folder / "text.txt"), str(folder / "data"), "--tokenizer", "bytes"]) == 0
    return folder


def test_no_trainers_words_are_in_it(own: Path) -> None:
    names = torch.load(own / "own.pt", weights_only=True)["model"]
    assert not any(old in name for name in names for old, _ in WORDS)
    assert run(["generate", str(own / "own.pt"), "--prompt", "a", "--tokenizer", "bytes"]) == 2


def test_generate_and_eval_read_it(own: Path, model: LlamaForCausalLM, capsys: pytest.CaptureFixture[str]) -> None:
    """As they read the model that transformers itself has written."""
    model.save_pretrained(own / "transformers")
    theirs = [str(own / "own.pt"), "--dialect", str(own / "mine.yaml")]
    found: list[Any] = []
    for checkpoint in ([str(own / "transformers")], theirs):
        asked = [*checkpoint, "--tokenizer", "bytes", "--json"]
        assert run(["generate", *asked, "--prompt", "abc", "--temperature", "0.3"]) == 0
        texts = json.loads(capsys.readouterr().out)["texts"]
        assert run(["eval", "perplexity", asked[0], str(own / "data" / "val.bin"), *asked[1:]]) == 0
        found.append((texts, json.loads(capsys.readouterr().out)["results"]))
    assert found[0] == found[1]


def test_plan_counts_its_parameters(own: Path, model: LlamaForCausalLM, capsys: pytest.CaptureFixture[str]) -> None:
    inside = sum(one.numel() for name, one in model.named_parameters() if "embed" not in name and "head" not in name)
    assert model_size(str(own / "own.pt"), str(own / "mine.yaml")) == inside
    words = [
        "curves",
        "a.csv",
        "b.csv",
        "--operator",
        "width",
        "--tokens-per-step",
        "10",
        "--params",
        str(own / "own.pt"),
    ]
    assert run(["plan", *words, "1e9", "--dialect", str(own / "none.yaml")]) == 2


@pytest.mark.parametrize("how", ["--resume", "--init-from"])
def test_train_begins_with_it(own: Path, model: LlamaForCausalLM, tmp_path: Path, how: str) -> None:
    asked = [how, str(own / "own.pt"), "--dialect", str(own / "mine.yaml"), "--lr", "0", "--weight-decay", "0"]
    words = ["train", "--data", str(own / "data"), "--out", str(tmp_path / "run"), *asked]
    assert run([*words, "--train-steps", "1", "--seqlen", "16", "--batch-size", "2"]) == 0
    trained = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(trained[f"model.{name}"], one) for name, one in model.state_dict().items())
