"""The average of the weights: a plain sum over the steps has it too; it goes on, grows, verifies and is used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import ckptgrow
from ckptgrow.cli import run as run_command
from tests.helpers.training_runs import config_file, losses, tiny_data, train_here, weights

DECAY = 0.75
INNER = "ema.module."


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def base(data: Path) -> list[str]:
    sizes = ["--train-steps=12", "--batch-size=4", "--save-every=1", f"--ema={DECAY}"]
    return [f"--data={data}", f"--config={config_file(data.parent)}", *sizes]


@pytest.fixture(scope="module")
def whole(base: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    train_here([*base, f"--out={out}"])
    return out


def average_in(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(INNER): one for name, one in found.items() if name.startswith(INNER)}


def test_the_average_is_that_of_the_weights_after_every_step(whole: Path) -> None:
    """By the definition, in float64, from the checkpoint of every step."""
    expected: dict[str, torch.Tensor] = {}
    for step in range(1, 13):
        found = weights(whole / "checkpoints" / f"step-{step}.ckpt")
        own = {name.removeprefix("model."): one.double() for name, one in found.items() if name.startswith("model.")}
        expected = {name: DECAY * expected.get(name, one) + (1 - DECAY) * one for name, one in own.items()}
        average = average_in(found)
        assert average.keys() == expected.keys() and int(found["ema.n_averaged"]) == step
        assert all(torch.allclose(average[name].double(), one, atol=1e-6) for name, one in expected.items())  # float32
    assert max(float((average[name] - own[name]).abs().max()) for name in own) > 1e-3


def test_it_goes_on_to_the_bit_without_being_asked_for(tmp_path: Path, base: list[str], whole: Path) -> None:
    source = whole / "checkpoints" / "step-5.ckpt"
    train_here([base[0], f"--out={tmp_path}", f"--resume={source}"])
    assert losses(tmp_path) == {step: loss for step, loss in losses(whole).items() if step > 5}
    expected, found = (weights(one / "checkpoints" / "last.ckpt") for one in (whole, tmp_path))
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_run_can_begin_one_later_and_end_it(tmp_path: Path, base: list[str], whole: Path) -> None:
    source = whole / "checkpoints" / "step-5.ckpt"
    train_here([base[0], f"--out={tmp_path / 'none'}", f"--resume={source}", "--ema=0", "--stop-at=7"])
    last = tmp_path / "none" / "checkpoints" / "last.ckpt"
    assert average_in(weights(last)) == {}
    train_here([base[0], f"--out={tmp_path / 'again'}", f"--resume={last}", "--ema=0.5", "--stop-at=8"])
    found = weights(tmp_path / "again" / "checkpoints" / "last.ckpt")
    assert all(torch.equal(one, found[f"model.{name}"]) for name, one in average_in(found).items())
    assert int(found["ema.n_averaged"]) == 1


@pytest.mark.parametrize("operator", [ckptgrow.width, pytest.param(ckptgrow.depth, marks=pytest.mark.slow)])
def test_it_grows_verifies_and_goes_on(tmp_path: Path, data: Path, whole: Path, operator: object) -> None:
    source, grown = whole / "checkpoints" / "step-6.ckpt", tmp_path / "grown.ckpt"
    assert callable(operator)
    operator(source, grown)
    assert ckptgrow.verify(source, grown).passed
    train_here([f"--data={data}", f"--out={tmp_path / 'out'}", f"--resume={grown}", "--stop-at=8", "--save-every=1"])
    before = average_in(weights(grown))
    steps = [weights(tmp_path / "out" / "checkpoints" / f"step-{step}.ckpt") for step in (7, 8)]
    for found in steps:
        for name, one in average_in(found).items():
            expected = DECAY * before[name].double() + (1 - DECAY) * found[f"model.{name}"].double()
            assert torch.allclose(one.double(), expected, atol=1e-6)  # float32
        before = average_in(found)


def test_conversion_evaluation_and_generation_take_it_where_asked(
    tmp_path: Path, data: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = whole / "checkpoints" / "last.ckpt"
    assert run_command(["convert", str(last), str(tmp_path / "hf"), "--to=huggingface", "--averaged"]) == 0
    converted = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    average = average_in(weights(last))
    assert all(torch.equal(one, average[name]) for name, one in converted.state_dict().items())
    assert run_command(["convert", str(last), str(tmp_path / "back.ckpt"), "--to=lightning", "--averaged"]) == 0
    back = torch.load(tmp_path / "back.ckpt", weights_only=True)
    assert not back["optimizer_states"]
    assert all(torch.equal(one, average[name.removeprefix("model.")]) for name, one in back["state_dict"].items())
    capsys.readouterr()
    scores: list[float] = []
    for more in ([str(last), "--averaged"], [str(tmp_path / "hf"), "--tokenizer=bytes"], [str(last)]):
        assert run_command(["eval", "perplexity", more[0], str(data / "val.bin"), *more[1:], "--json"]) == 0
        (found,) = json.loads(capsys.readouterr().out)["results"].values()
        scores.append(next(value for name, value in found.items() if "loss" in name and "stderr" not in name))
    assert scores[0] == scores[1] != scores[2]
    texts: list[str] = []
    for more in ([str(last), "--averaged"], [str(tmp_path / "hf"), "--tokenizer=bytes"]):
        assert run_command(["generate", *more, "--prompt=the ", "--num-tokens=8", "--json"]) == 0
        texts.append(json.loads(capsys.readouterr().out)["texts"][0])
    assert texts[0] == texts[1]


def test_what_cannot_be_averaged_is_one_line(
    tmp_path: Path, base: list[str], whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"--out={tmp_path / 'out'}"
    for arguments, words in (
        ([*base, out, "--ema=1"], ["--ema 1", "below 1"]),
        ([*base, out, "--ema=-0.1"], ["--ema -0.1", "below 1"]),
        ([*base, out, "--precision=bf16-true"], ["--ema", "bfloat16", "--precision bf16-mixed"]),
        ([*base, out, "--strategy=fsdp"], ["--ema", "whole parameters"]),
    ):
        capsys.readouterr()
        train_here(arguments, expected=2)
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1 and all(word in error for word in words), error
    train_here([base[0], f"--out={tmp_path / 'none'}", *base[1:3], "--ema=0", "--train-steps=3"])
    bare = tmp_path / "none" / "checkpoints" / "last.ckpt"
    assert run_command(["convert", str(bare), str(tmp_path / "hf"), "--to=huggingface", "--averaged"]) == 2
    assert "no average" in capsys.readouterr().err and not (tmp_path / "hf").exists()
