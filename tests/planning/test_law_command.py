"""`ckptgrow plan law` as a shell sees it: JSON, pictures, a plan to run, and one line for what cannot be."""

from __future__ import annotations

import csv
import json
import math
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptgrow.cli import app, run
from ckptgrow.planning.executed import batches
from ckptgrow.planning.operators import GrowthStep
from ckptgrow.planning.shapes import shapes
from ckptgrow.planning.terminal import Line, Mark, picture
from tests.helpers.commands import as_json
from tests.helpers.training_runs import tiny_data

TARGET = ["plan", "law", "--target-params", "3.4e8"]


def test_json_says_the_stages_and_the_constants(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json([*TARGET, "--stages", "3"], capsys)
    stages = found["stages"]
    assert isinstance(stages, list) and [one["params"] for one in stages][-1] == pytest.approx(3.4e8)
    assert 0 < found["saving_of_batches"] < found["saving"] < 1  # type: ignore[operator]
    assert [one["operator"] for one in found["constants"]] == ["depth", "width", "both"]  # type: ignore[union-attr]
    assert stages[0]["restart_step"] == 0 and stages[1]["loss_before"] == stages[0]["loss"]


def test_larger_models_than_the_formulas_have_gpt3s_rates_and_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Brown et al., table 2.1: 6.7e9 parameters (6.44e9 without embeddings) have 1.2e-4, 13e9 (12.7e9) 1e-4."""
    large = ["plan", "law", "--stages", "1", "--target-params"]
    for size, rate in ((12 * 32 * 4096**2, 1.2e-4), (12 * 40 * 5140**2, 1e-4)):
        assert run([*large, f"{size}", "--json"]) == 0
        printed = capsys.readouterr()
        found = json.loads(printed.out)
        assert found["lr_rule"] == "gpt3" and found["stages"][0]["learning_rate"] == pytest.approx(rate)
        assert "--lr-rule gpt3" in printed.err and "1.5e+09 parameters" in printed.err
    assert run([*large, "7e11", "--lr-rule", "2e-5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"][0]["learning_rate"] == 2e-5


@pytest.mark.parametrize(("rule", "log"), [("log10", math.log10), ("natural", math.log)])
def test_learning_rates_follow_the_rule_that_is_named(
    capsys: pytest.CaptureFixture[str], rule: str, log: object
) -> None:
    stages = as_json([*TARGET, "--lr-rule", rule], capsys)["stages"]
    for one in stages:  # type: ignore[union-attr]
        assert one["learning_rate"] == pytest.approx(0.003239 - 0.0001395 * log(one["params"]), rel=1e-6)  # type: ignore[operator]


def test_the_plan_file_has_every_stage_and_commands_that_the_program_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "plans" / "plan.yaml"
    arguments = ["--stages", "3", "--operators", "both,depth", "--rewarm", "50", "--seqlen", "512", "--out", str(out)]
    found = as_json([*TARGET, *arguments], capsys)
    plan = yaml.safe_load(out.read_text())
    config = json.loads((out.parent / plan["config"]).read_text())
    assert config["n_layer"] == plan["stages"][0]["model"]["layers"] and config["n_positions"] == 512
    for one, planned in zip(plan["stages"], found["stages"], strict=True):  # type: ignore[call-overload]
        assert one["model"]["params"] == pytest.approx(planned["params"], rel=0.1)
        batch = one["batch_size"] * 512
        assert batch == pytest.approx(planned["batch_tokens"], rel=0.03)
        for name in ("steps", "restart_step"):
            assert abs(one[name] * batch - planned[name] * planned["batch_tokens"]) <= batch / 2
        assert one["learning_rate"] == pytest.approx(planned["learning_rate"], rel=1e-5)
    first, second, third = plan["stages"]
    assert [one["warmup"] for one in plan["stages"]] == [min(2000, first["steps"] // 20)] * 3
    assert first["operator"] is None and first["rewarm"] == 0 and second["rewarm"] == 50
    for small, large in ((first, second), (second, third)):
        both = large["operator"] == "both"
        assert large["model"]["layers"] == 2 * small["model"]["layers"]
        assert large["model"]["hidden"] == (2 if both else 1) * small["model"]["hidden"]
        assert f"--step {large['restart_step']} --rewarm 50" in large["commands"][-2]
        assert f"--train-steps {large['restart_step'] + large['steps']} " in large["commands"][-1]
    courses = [shlex.split(one["commands"][-1])[-1] for one in plan["stages"]]
    assert courses == ["constant", "constant", "wsd"]  # what will be grown keeps its peak rate
    group = typer.main.get_command(app)
    monkeypatch.chdir(out.parent)
    Path("prepared").mkdir()
    Path("prepared", "meta.json").touch()
    for line in [line for one in plan["stages"] for line in one["commands"]]:
        program, name, *options = shlex.split(line)
        assert program == "ckptgrow"
        for one in options:
            if one.endswith(".ckpt"):  # stands where the stage before has written it
                Path(one).parent.mkdir(parents=True, exist_ok=True)
                torch.save({}, one)
        command = group.get_command(None, name)  # type: ignore[attr-defined]
        command.make_context(name, options)  # raises for options that do not exist


def test_the_first_models_vocabulary_is_that_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "prepared").mkdir()
    for vocabulary in (50257, 256):  # GPT-2's before there are data
        assert run([*TARGET, "--data", str(tmp_path / "prepared"), "--out", str(tmp_path / "plan.yaml")]) == 0
        assert json.loads((tmp_path / "plan.config.json").read_text())["vocab_size"] == vocabulary
        (tmp_path / "prepared" / "meta.json").write_text('{"vocab_size": 256}')


def test_shapes_grow_as_operators_do_and_end_as_wide_as_usual() -> None:
    growths = [GrowthStep("width", 2), GrowthStep("both", 2)]
    first, second, third = shapes(1e6, growths)
    assert first.params == pytest.approx(1e6, rel=0.05)
    assert (second.hidden, second.heads, second.layers) == (2 * first.hidden, 2 * first.heads, first.layers)
    assert third.params == 8 * second.params == 32 * first.params
    assert 16 <= third.hidden / third.layers <= 256


@pytest.mark.parametrize(
    ("tokens", "expected"), [(524_288, (32, 16)), (1_000, (1, 1)), (20_480, (20, 1)), (1_535_016, (32, 47))]
)
def test_batches_are_the_nearest_micro_batches(tokens: float, expected: tuple[int, int]) -> None:
    assert batches(tokens, 1024) == expected


@given(st.floats(1.0, 5000.0))
@settings(max_examples=300, deadline=None)
def test_no_other_micro_batches_come_nearer_but_within_a_hundredth(sequences: float) -> None:
    micro, accumulation = batches(sequences * 512, 512)
    asked = round(sequences)
    off = abs(micro * accumulation - asked) / asked
    others = [(one, num) for one in range(8, 33) for num in range(1, 5000 // one + 2)]
    assert 1 <= micro <= 32 and (asked > 32 or (micro, accumulation) == (asked, 1))
    assert off <= max(0.01, min(abs(one * num - asked) / asked for one, num in others)) and off < 0.03


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batch", "1500"], "stage 1: 1,500 tokens a step are not a whole number of sequences of 1024"),
        (["--batch", "100"], "pass a shorter --seqlen"),
        (["--target-loss", "4"], "has no steps"),
        (["--warmup-steps", "9000000"], "--warmup-steps 9000000: stage 1 has"),
        (["--rewarm", "9000000"], "--rewarm 9000000: stage 2 has"),
    ],
)
def test_a_plan_that_cannot_be_executed_is_not_written(
    tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*TARGET, *arguments, "--out", str(tmp_path / "plan.yaml")]) == 2
    assert words in capsys.readouterr().err and not list(tmp_path.iterdir())


TINY_LAW = "{measure: tokens, size_scale: 10, size_exponent: 0.2, data_scale: 60, data_exponent: 0.5}"


@pytest.mark.parametrize("batch", [37 * 16, 9.6 * 16])
def test_what_the_commands_execute_is_what_the_plan_says_to_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: float
) -> None:
    """Every command run: steps, tokens, batches and rates of the checkpoints and logs that are left."""
    monkeypatch.chdir(tmp_path)
    tiny_data(tmp_path)
    Path("law.yaml").write_text(TINY_LAW)
    more = ["--stages", "2", "--operators", "width", "--batch", f"{batch}", "--seqlen", "16", "--data", "data"]
    ask = ["plan", "law", "--law", "law.yaml", "--target-params", "1e5", "--rewarm", "2", "--out", "plan.yaml"]
    assert run([*ask, *more]) == 0
    before = 0
    for number, stage in enumerate(yaml.safe_load(Path("plan.yaml").read_text())["stages"], start=1):
        *growing, training = stage["commands"]
        for line in growing:
            assert run(shlex.split(line)[1:]) == 0
        assert run([*shlex.split(training)[1:], "--log-every=1", "--accelerator=cpu"]) == 0
        saved = torch.load(f"stage-{number}/checkpoints/last.ckpt", weights_only=True)
        rows = [
            row for row in csv.DictReader(Path(f"stage-{number}/metrics.csv").read_text().splitlines()) if row["lr"]
        ]
        steps = [int(row["step"]) for row in rows]
        assert steps == list(range(stage["restart_step"] + 1, stage["restart_step"] + stage["steps"] + 1))
        assert saved["tokens_seen"] - before == stage["tokens"] == stage["steps"] * stage["batch_size"] * 16
        assert {int(row["batch_size"]) for row in rows} == {stage["batch_size"]}
        rates = {step: float(row["lr"]) for step, row in zip(steps, rows, strict=True)}
        assert max(rates.values()) == pytest.approx(stage["learning_rate"], rel=1e-6)
        if number == 1:
            rising = [step for step, rate in rates.items() if rate < stage["learning_rate"] * (1 - 1e-9)]
            assert rising == list(range(1, stage["warmup"]))
        before = saved["tokens_seen"]


def test_pictures_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for ending, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        plot = tmp_path / f"plan.{ending}"
        assert run([*TARGET, "--plot", str(plot)]) == 0
        assert plot.read_bytes().startswith(magic)
    assert "saves" in capsys.readouterr().out


def test_a_terminals_plot_is_a_falling_line_in_its_frame() -> None:
    x = np.geomspace(1.0, 100.0, 30)
    rows = picture([Line(x, x**-0.5, "blue")], [Mark(10.0, 10**-0.5, "●", "red")], width=47, height=10)
    texts = ["".join(text for text, _ in row) for row in rows]
    assert len(texts) == 12
    assert texts[0].lstrip().startswith("1.00 │⠉") and texts[9].lstrip().startswith("0.10 │")
    places = [next(place for place, letter in enumerate(text[7:]) if letter != " ") for text in texts[:10]]
    assert {len(text) for text in texts} == {47} and places == sorted(places) and "●" in texts[4] + texts[5]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target-params", "1e8", "--target-loss", "2"], "expected more than 8.006e+09 parameters"),
        (["--target-loss", "1.6", "--law", "hoffmann"], "no model reaches it"),
        ([], "--target-params N"),
        (["--target-params", "nan"], "--target-params nan"),
        (["--target-loss", "-3"], "--target-loss -3"),
        (["--target-loss", "3", "--law", "nowhere"], "--law nowhere"),
        (["--target-loss", "3", "--batch", "many"], "--batch many"),
        (["--target-loss", "3", "--batch", "critical", "--law", "hoffmann"], "no critical batch size"),
        (["--target-loss", "3", "--operators", "deep"], "--operators deep"),
        (["--target-loss", "3", "--operators", "any,width"], "any alone"),
        (["--target-loss", "3", "--max-factor", "1"], "--max-factor 1"),
        (["--target-loss", "3", "--operators", "any", "--max-factor", "0.5"], "--max-factor 0.5"),
        (["--target-loss", "3", "--operators", "any", "--out", "plan.yaml"], "--out"),
        (["--target-loss", "3", "--stages", "9"], "6,561 sequences"),
        (["--target-loss", "3", "--lr-rule", "ln"], "--lr-rule ln"),
        (["--target-params", "1e12", "--lr-rule", "natural"], "--lr-rule natural"),
        (["--target-params", "2e9", "--lr-rule", "log10"], "models of up to 1.5e+09 parameters"),
        (["--target-params", "1e12"], "--lr-rule gpt3"),
        (["--target-loss", "3", "--lr-rule", "-1"], "--lr-rule -1"),
        (["--target-loss", "3", "--plot", "plan.doc"], "plan.doc"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "law", *arguments]) == 2
    error = capsys.readouterr()
    assert len(error.err.strip().splitlines()) == 1 and words in error.err and error.out == "", error


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("measure: steps", "has no data_exponent"),
        ("- 1", "is a list"),
        ("{", "neither YAML nor JSON"),
        ("{measure: hours, size_scale: 1, size_exponent: 1, data_scale: 1, data_exponent: 1}", "measure is 'hours'"),
        ("{measure: tokens, size_scale: 0, size_exponent: 1, data_scale: 1, data_exponent: 1}", "size_scale is 0"),
        ("{measure: tokens, size_scale: .nan, size_exponent: 1, data_scale: 1, data_exponent: 1}", "size_scale is nan"),
        ("{measure: steps, size_scale: 1, size_exponent: 1, data_scale: 1, data_exponent: 1}", "batch_scale"),
        ("{measure: tokens, size_scale: 1, size_exponent: 1, data_scale: 1, data_exponent: 1, x: 1}", "has x"),
    ],
)
def test_a_bad_law_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str) -> None:
    law = tmp_path / "law.yaml"
    law.write_text(text)
    assert run(["plan", "law", "--law", str(law), "--target-loss", "3"]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and words in error and "law.yaml" in error, error


def test_a_target_that_small_models_reach_warns_of_stages_without_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*TARGET, "--target-loss", "4"]) == 0
    said = capsys.readouterr()
    assert "1 of 2 stages have no steps" in said.err and "Do not grow" in said.out


def test_stages_beyond_the_sizes_of_a_fit_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    run(["plan", "law", "--target-params", "3e9", "--stages", "2", "--lr-rule", "1e-4"])
    said = " ".join(capsys.readouterr().err.split())
    assert "fitted to models of 768 to 1.5e+09 parameters" in said and "stage 2 is an extrapolation" in said
    run([*TARGET, "--stages", "2"])
    assert "extrapolation" not in capsys.readouterr().err
