"""Checkpoints side by side."""

from __future__ import annotations

import copy
import json
import math
import random
import statistics
from pathlib import Path

import pytest
from transformers import PreTrainedModel

import ckptgrow
from ckptgrow.cli import run
from ckptgrow.evaluate.score_comparison import paired_standard_error
from tests.helpers.evaluated import LAMBADA, WIKITEXT, byte_model
from tests.helpers.lightning_files import save_lightning

TASKS = ["--tasks", "lambada_openai,wikitext", "--data", f"lambada_openai={LAMBADA}", "--data", f"wikitext={WIKITEXT}"]
QUICK = ["--tokenizer", "bytes", "--bootstrap-iters", "0", "--batch-size", "4"]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = copy.deepcopy(byte_model("gpt2"))
    for parameter in model.parameters():
        parameter.data.mul_(1.05)
    return save_lightning(tmp_path_factory.mktemp("other") / "other.ckpt", model)


def test_a_means_error_is_that_of_the_paired_differences() -> None:
    generator = random.Random(0)
    first = [generator.random() for _ in range(30)]
    second = [one + generator.gauss(0.1, 0.05) for one in first]
    expected = statistics.stdev(b - a for a, b in zip(first, second, strict=True)) / math.sqrt(30)
    assert paired_standard_error(first, second, statistics.fmean) == pytest.approx(expected)


def test_a_perplexitys_error_follows_the_delta_method() -> None:
    generator = random.Random(1)
    first = [-3 + generator.gauss(0, 0.3) for _ in range(400)]
    second = [one + generator.gauss(0, 0.1) for one in first]
    values = [math.exp(-statistics.fmean(one)) for one in (first, second)]
    slopes = [values[0] * a - values[1] * b for a, b in zip(first, second, strict=True)]
    expected = statistics.stdev(slopes) / math.sqrt(400)
    found = paired_standard_error(first, second, lambda one: math.exp(-statistics.fmean(one)))
    assert found == pytest.approx(expected, rel=0.01)


def test_more_samples_are_left_out_in_parts() -> None:
    generator = random.Random(2)
    first, second = ([generator.random() for _ in range(5153)] for _ in range(2))
    expected = statistics.stdev(b - a for a, b in zip(first, second, strict=True)) / math.sqrt(5153)
    assert paired_standard_error(first, second, statistics.fmean) == pytest.approx(expected, rel=0.1)


def test_a_grown_checkpoint_differs_in_nothing_that_counts(
    checkpoint: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grown = tmp_path / "grown.ckpt"
    ckptgrow.width(checkpoint, grown, noise=1.0)
    arguments = ["eval", "compare", str(checkpoint), str(grown), str(other), *TASKS, *QUICK, "--json"]
    assert run(arguments) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["checkpoints"] == [str(checkpoint), str(grown), str(other)] and len(shown["results"]) == 3
    rows = {(row["task"], row["metric"]): row for row in shown["differences"]}
    accuracy = rows["lambada_openai", "acc,none"]
    assert accuracy["differences"][0] == 0 and accuracy["standard_errors"][0] == 0
    for row in rows.values():
        assert row["values"][0] == shown["results"][0][row["task"]][row["metric"]]
        assert abs(row["differences"][0]) <= 1e-5 * row["values"][0]
        assert row["differences"][1] == row["values"][2] - row["values"][0] != 0
        assert row["standard_errors"][1] > row["standard_errors"][0] >= 0


def test_a_tolerance_decides_the_exit_code(
    checkpoint: Path, other: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    samples = tmp_path / "samples.jsonl"
    arguments = ["eval", "compare", str(checkpoint), str(other), *TASKS, *QUICK, "--limit", "3"]
    assert run([*arguments, "--tolerance", "1e-9", "--samples", str(samples)]) == 1
    assert "largest relative difference" in capsys.readouterr().out
    records = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    assert [record["checkpoint"] for record in records] == [str(checkpoint)] * 6 + [str(other)] * 6
    assert run([*arguments, "--tolerance", "10"]) == 0
    assert run([*arguments[:2], str(checkpoint), str(checkpoint), *arguments[4:], "--tolerance", "0"]) == 0
    assert "all scores are equal" in capsys.readouterr().out


def test_a_config_given_is_the_small_ones(
    model: PreTrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_dict()))
    bare = save_lightning(tmp_path / "bare.ckpt", model, hyper_parameters={})
    ckptgrow.width(bare, tmp_path / "grown.ckpt", request=ckptgrow.StateRequest(config=tmp_path / "config.json"))
    arguments = ["eval", "compare", str(bare), str(tmp_path / "grown.ckpt"), *TASKS, *QUICK, "--limit", "2"]
    assert run(arguments) == 2
    assert "--config" in capsys.readouterr().err
    assert run([*arguments, "--config", str(tmp_path / "config.json"), "--tolerance", "1e-5"]) == 0
