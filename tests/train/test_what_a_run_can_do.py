"""What a run can be asked for beside its course: less memory, an end at a loss, a model to use, its utilisation."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from ckptgrow.cli import run
from ckptgrow.data.preparation import prepare
from ckptgrow.train.metrics import COLUMNS
from tests.helpers.commands import refused
from tests.helpers.lightning_files import load_model
from tests.helpers.training_runs import CONFIG, TINY, config_file, kill_at, losses, tiny_data, train_here, weights


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def new(data: Path) -> list[str]:
    """A new run of 12 steps, with dropout."""
    sizes = ["--train-steps=12", "--batch-size=4", "--grad-accum=2", "--save-every=4", "--dropout=0.2"]
    return [f"--data={data}", f"--config={config_file(data.parent)}", *sizes]


@pytest.fixture(scope="module")
def whole(new: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    train_here([*new, f"--out={out}"])
    return out


def test_gradient_checkpointing_changes_no_bit_and_is_remembered(
    tmp_path: Path, new: list[str], data: Path, whole: Path
) -> None:
    out = tmp_path / "out"
    kill_at([*new, "--gradient-checkpointing", f"--out={out}"], out / "checkpoints" / "step-4.ckpt")
    last = out / "checkpoints" / "last.ckpt"
    train_here([f"--data={data}", f"--resume={last.with_name('step-4.ckpt')}", f"--out={out}"])
    assert losses(out) == losses(whole)
    ours, theirs = (weights(one / "checkpoints" / "last.ckpt") for one in (out, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert torch.load(last, weights_only=True)["hyper_parameters"]["run"]["gradient_checkpointing"] is True


def test_a_run_ends_at_the_validation_whose_loss_is_low_enough(
    tmp_path: Path, new: list[str], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = [*new, "--val-every=2", "--lr=3e-2"]
    train_here([*every, f"--out={tmp_path / 'whole'}"])
    validated = losses(tmp_path / "whole", "val_loss")
    target = (validated[4] + validated[6]) / 2
    first = next(step for step, loss in validated.items() if loss <= target)
    assert 2 < first < 12
    capsys.readouterr()
    train_here([*every, f"--out={tmp_path / 'out'}", f"--until-loss={target}", "--json"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["loss_reached"] == told["global_step"] == first
    last = tmp_path / "out" / "checkpoints" / "last.ckpt"
    again = [f"--data={data}", f"--resume={last}", f"--out={tmp_path / 'out'}"]
    refused(["train", *again, *TINY, f"--until-loss={target}"], capsys, "--until-loss", f"step {first}")
    train_here([*again, "--lr=3e-2"])  # without the option it goes on, as a run that never ended
    assert losses(tmp_path / "out") == losses(tmp_path / "whole")


def test_what_a_run_exports_is_its_model_for_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"the {number} th of many lines, and so on" for number in range(200)))
    prepare([str(text)], tmp_path / "data", train_tokenizer=260, val_fraction=0.2)
    vocabulary = json.loads((tmp_path / "data" / "meta.json").read_text())["vocab_size"]
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": vocabulary}))
    out = tmp_path / "out"
    common = [f"--data={tmp_path / 'data'}", f"--config={tmp_path / 'config.json'}", "--batch-size=2"]
    train_here([*common, "--train-steps=3", f"--out={out}", "--export"])
    assert f"exported: {out / 'model'}" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(out / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    tokens = tokenizer("the 7 th", return_tensors="pt")["input_ids"]
    expected = load_model(out / "checkpoints" / "last.ckpt")[0].eval()
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, expected(tokens).logits)
    assert tokenizer.decode(tokens[0]) == "the 7 th"
    assert GenerationConfig.from_pretrained(out / "model").eos_token_id == tokenizer.eos_token_id
    assert not list((out / "model").glob("optimizer*")) and not list((out / "model").glob("*.bin"))
    wide, last, own = tmp_path / "wide.ckpt", out / "checkpoints" / "last.ckpt", tmp_path / "data" / "tokenizer"
    assert run(["width", str(last), str(wide)]) == 0
    for source in (last, wide):  # `convert` knows the tokenizer from the checkpoint
        converted = tmp_path / f"hf-{source.stem}"
        capsys.readouterr()
        assert run(["convert", str(source), str(converted), "--to", "huggingface"]) == 0
        assert f"the tokenizer of its run, {own}" in capsys.readouterr().out
        assert (converted / "tokenizer.json").read_bytes() == (own / "tokenizer.json").read_bytes()
        assert AutoTokenizer.from_pretrained(converted).decode(tokens[0]) == "the 7 th"
    own.rename(tmp_path / "moved")
    assert run(["convert", str(wide), str(tmp_path / "without"), "--to", "huggingface"]) == 0
    assert f"the tokenizer {own}, which is not there any more" in capsys.readouterr().out
    assert not (tmp_path / "without" / "tokenizer.json").exists()


def test_the_utilisation_is_the_models_own_arithmetic_over_the_peak(tmp_path: Path, new: list[str]) -> None:
    peak = 1e9
    train_here([*new, f"--out={tmp_path}", f"--peak-flops={peak}"])
    layers, hidden, vocabulary, seqlen = 2, 12, 256, 16
    block = 12 * hidden**2 + 13 * hidden  # two norms, q k v and their output, two matrices of four times the width
    needed = 6 * (layers * block + 2 * hidden + vocabulary * hidden) + 12 * layers * hidden * seqlen
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["loss"]]
    assert len(rows) == 12
    for row in rows:
        assert float(row["mfu"]) == pytest.approx(float(row["tokens_per_second"]) * needed / peak)


def test_a_run_of_a_version_with_fewer_columns_goes_on(tmp_path: Path, new: list[str], data: Path, whole: Path) -> None:
    train_here([*new, f"--out={tmp_path}", "--stop-at=4"])
    path = tmp_path / "metrics.csv"
    with path.open() as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in COLUMNS if name != "mfu"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    train_here([f"--data={data}", f"--resume={tmp_path / 'checkpoints' / 'last.ckpt'}", f"--out={tmp_path}"])
    assert losses(tmp_path) == losses(whole)


def test_a_model_without_checkpointing_is_refused(
    tmp_path: Path, new: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.GPT2LMHeadModel.supports_gradient_checkpointing", False)
    assert run(["train", *new, *TINY, f"--out={tmp_path / 'o'}", "--gradient-checkpointing"]) == 2
    assert "--gradient-checkpointing" in capsys.readouterr().err
    assert not (tmp_path / "o" / "checkpoints").exists()
