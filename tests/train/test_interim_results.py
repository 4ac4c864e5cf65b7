"""Texts and scores while a run trains: those that `generate` and `eval run` give for the step's checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptgrow.cli import run
from ckptgrow.errors import RequestError
from ckptgrow.train.interim_results import interim_results
from ckptgrow.train.mixtures import Mixture
from ckptgrow.train.settings import TrainSettings
from ckptgrow.train.stopwatch import Stopwatch
from tests.helpers.commands import refused
from tests.helpers.evaluated import OWN_TASK
from tests.helpers.training_runs import config_file, losses, tiny_data, train_here, weights

PROMPT = "is 3"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a task of four documents."""
    home = tmp_path_factory.mktemp("tasks")
    questions = home / "questions.jsonl"
    questions.write_text("".join(json.dumps({"question": f"is {n}?", "answer": (n + 1) % 2}) + "\n" for n in range(4)))
    (home / "own").mkdir()
    (home / "own" / "own.yaml").write_text(OWN_TASK.format(data=questions, cache=home / "cache"))
    return home / "own"


@pytest.fixture(scope="module")
def base(data: Path) -> list[str]:
    sizes = ["--train-steps=6", "--batch-size=4", "--save-every=2", "--val-every=3", "--dropout=0.1"]
    return [f"--data={data}", f"--config={config_file(data.parent)}", *sizes]


@pytest.fixture(scope="module")
def asked(own: Path) -> list[str]:
    texts = [f"--sample={PROMPT}", "--sample=", "--sample-every=2"]
    return [*texts, "--eval-tasks=own_endings", "--eval-every=4", f"--eval-include={own}"]


@pytest.fixture(scope="module")
def whole(base: list[str], asked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    train_here([*base, f"--out={out}", *asked])
    return out


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_texts_are_those_of_generate(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = records(whole / "samples.jsonl")
    assert [(one["step"], one["prompt"]) for one in found] == [(n, text) for n in (2, 4, 6) for text in (PROMPT, "")]
    for one in found:
        checkpoint = whole / "checkpoints" / f"step-{one['step']}.ckpt"
        assert run(["generate", str(checkpoint), "--prompt", one["prompt"], "--num-tokens=64", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["texts"] == [one["text"]]
    assert len({one["text"] for one in found}) > 1


def test_scores_are_those_of_eval(whole: Path, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = records(whole / "evaluations.jsonl")
    assert [one["step"] for one in found] == [4, 6]
    for one in found:
        checkpoint = whole / "checkpoints" / f"step-{one['step']}.ckpt"
        assert run(["eval", "run", str(checkpoint), "--tasks=own_endings", f"--include-path={own}", "--json"]) == 0
        expected = json.loads(capsys.readouterr().out)["results"]["own_endings"]
        assert one["results"]["own_endings"]["acc,none"] == expected["acc,none"]


def test_the_run_is_the_same_to_the_bit_as_without_them(tmp_path: Path, base: list[str], whole: Path) -> None:
    train_here([*base, f"--out={tmp_path}"])
    assert losses(tmp_path) == losses(whole)
    expected, found = (weights(one / "checkpoints" / "last.ckpt") for one in (whole, tmp_path))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_run_that_goes_on_remembers_them_and_writes_none_twice(tmp_path: Path, base: list[str], own: Path) -> None:
    out = tmp_path / "out"
    train_here([*base, f"--out={out}", f"--sample={PROMPT}", "--sample-every=1", "--stop-at=5"])
    with (out / "samples.jsonl").open("a") as file:
        file.write('{"step": 6, "pro')  # a line that was cut short
    train_here([base[0], f"--out={out}", f"--resume={out / 'checkpoints' / 'step-4.ckpt'}"])
    assert [one["step"] for one in records(out / "samples.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_a_failure_while_the_run_trains_is_told_and_ends_nothing(
    tmp_path: Path, base: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a task whose documents are longer than the model's context, which shows only there."""
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"question": "is 1?", "answer": 0}) + "\n")
    long = OWN_TASK.format(data=questions, cache=tmp_path / "cache").replace('"no"', f'"{"n" * 500}"')
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "own.yaml").write_text(long)
    options = ["--eval-tasks=own_endings", f"--eval-include={tmp_path / 'own'}", "--stop-at=2", "--warmup-steps=0"]
    assert run(["train", *base, f"--out={tmp_path / 'out'}", "--seqlen=16", "--accelerator=cpu", *options]) == 0
    assert "step 2: evaluating failed" in capsys.readouterr().out
    assert (tmp_path / "out" / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--eval-tasks=no_such_task", "no_such_task"),
        (f"--sample={'x' * 999}", "--sample: has 999 tokens, expected fewer than the model's"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, base: list[str], capsys: pytest.CaptureFixture[str], option: str, expected: str
) -> None:
    refused(["train", *base, f"--out={tmp_path / 'out'}", "--accelerator=cpu", option], capsys, expected)
    assert not (tmp_path / "out").exists()


def test_sharded_parameters_are_refused(data: Path, tmp_path: Path) -> None:
    settings = TrainSettings(data=data, out=tmp_path, sample=("a",), strategy="fsdp")
    with pytest.raises(RequestError, match="needs whole parameters"):
        interim_results(settings, Mixture.open(data), torch.nn.Linear(1, 1), Stopwatch(), print)
