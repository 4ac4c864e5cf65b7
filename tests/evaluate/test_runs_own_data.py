"""A checkpoint of `ckptgrow train`, grown or not, is evaluated on its run's own data with its run's own tokenizer."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from ckptgrow.cli import run
from ckptgrow.evaluate.processes import launched
from ckptgrow.evaluate.subject import open_subject
from tests.helpers.commands import refused
from tests.helpers.evaluated import WIKITEXT
from tests.helpers.training_runs import TINY, config_file

QUICK = ["--bootstrap-iters", "0", "--batch-size", "4"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's last checkpoint; its tokenizer was trained on the run's own text."""
    place = tmp_path_factory.mktemp("run")
    assert run(["data", str(WIKITEXT), str(place / "data"), "--train-tokenizer", "300", "--val-fraction", "0.3"]) == 0
    config = json.loads(config_file(place).read_text()) | {"vocab_size": 300}
    (place / "config.json").write_text(json.dumps(config))
    out = place / "out"
    options = ["--data", str(place / "data"), "--out", str(out), "--config", str(place / "config.json"), *TINY]
    assert run(["train", *options, "--train-steps", "3", "--batch-size", "4"]) == 0
    return out / "checkpoints" / "last.ckpt"


def shown(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def loss_by_torch(checkpoint: Path) -> float:
    """Cross-entropy of every token of val.bin but the first, each predicted within blocks of the context."""
    data = checkpoint.parents[2] / "data"
    tokens = torch.frombuffer(bytearray((data / "val.bin").read_bytes()), dtype=torch.uint16).long()
    with launched("cpu") as here:
        model = open_subject(checkpoint, tokenizer=None, dtype="float32", device=here.device).model
    lost: list[float] = []
    for begin in range(0, len(tokens) - 1, 16):
        block = tokens[begin : begin + 17][None]
        logits = model(input_ids=block[:, :-1]).logits.double()
        lost += torch.nn.functional.cross_entropy(logits[0], block[0, 1:], reduction="none").tolist()
    return statistics.fmean(lost)


def test_perplexity_needs_neither_a_file_nor_a_tokenizer(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(["eval", "perplexity", str(trained)], capsys)
    assert found["tokenizer"] == str(trained.parents[2] / "data" / "tokenizer")
    assert found["results"]["val.bin"]["loss,none"] == pytest.approx(loss_by_torch(trained), rel=1e-5)  # float32


def test_stages_are_compared_on_the_runs_validation_tokens(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grown, other = tmp_path / "grown.ckpt", tmp_path / "other.ckpt"
    assert run(["width", str(trained), str(grown)]) == 0
    tree = torch.load(trained, weights_only=True)
    tree["state_dict"]["model.lm_head.weight"] = tree["state_dict"]["model.lm_head.weight"] * 1.3
    tree["state_dict"]["model.transformer.wte.weight"] = tree["state_dict"]["model.lm_head.weight"]
    torch.save(tree, other)
    found = shown(["eval", "compare", str(trained), str(grown), str(other), "--tasks", "perplexity"], capsys)
    rows = {row["metric"]: row for row in found["differences"]}
    losses = [loss_by_torch(trained), None, None]
    assert rows["loss,none"]["values"][0] == pytest.approx(losses[0], rel=1e-5)
    assert abs(rows["loss,none"]["differences"][0]) < 1e-5 < abs(rows["loss,none"]["differences"][1])
    loss, perplexity = (rows[name]["standard_errors"][1] for name in ("loss,none", "perplexity,none"))
    assert perplexity == pytest.approx(loss * math.exp(losses[0] or 0), rel=0.2)  # the delta method, for small errors
    assert rows["loss,none"]["standard_errors"][0] < loss


def test_lm_evals_tasks_and_the_own_tokens_stand_side_by_side(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = ["--tasks", "perplexity,wikitext", "--data", f"wikitext={WIKITEXT}", *QUICK]
    found = shown(["eval", "compare", str(trained), str(trained), *tasks], capsys)
    assert {row["task"] for row in found["differences"]} == {"perplexity", "wikitext"}
    assert all(row["differences"] == [0] for row in found["differences"])


def test_data_that_is_gone_is_asked_for(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = torch.load(trained, weights_only=True)
    tree["hyper_parameters"]["data"] |= {"directory": str(tmp_path / "gone"), "tokenizer": str(tmp_path / "gone2")}
    torch.save(tree, tmp_path / "moved.ckpt")
    refused(["eval", "perplexity", str(tmp_path / "moved.ckpt")], capsys, "gone has no val.bin", "name it")
    val = str(trained.parents[2] / "data" / "val.bin")
    assert run(["eval", "perplexity", str(tmp_path / "moved.ckpt"), val]) == 0  # by the meta.json beside it
    shutil.copy(val, tmp_path / "val.bin")
    refused(["eval", "perplexity", str(tmp_path / "moved.ckpt"), str(tmp_path / "val.bin")], capsys, "no longer there")


def test_generation_goes_on_from_the_prompt_as_transformers_does(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = shown(["generate", str(trained), "--prompt", "The", "--temperature", "0", "--num-tokens", "5"], capsys)
    tokenizer = AutoTokenizer.from_pretrained(trained.parents[2] / "data" / "tokenizer")
    with launched("cpu") as here:
        model = open_subject(trained, tokenizer=None, dtype="float32", device=here.device).model
    ids = tokenizer.encode("The", add_special_tokens=False)
    given = len(ids)
    for _ in range(5):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    assert found["texts"] == [tokenizer.decode(ids[given:], skip_special_tokens=True)]


def test_drawn_texts_come_again_with_their_seed_and_stay_within_the_context(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", str(trained), "--prompt", "The", "--num-texts", "3", "--num-tokens", "100"]
    first, again, other = (shown([*arguments, "--seed", seed], capsys)["texts"] for seed in "001")
    assert first == again != other
    refused(["generate", str(trained), "--prompt", "The " * 50], capsys, "expected fewer than the model's 16 positions")
    refused([*arguments, "--temperature", "0"], capsys, "--num-texts 1")
