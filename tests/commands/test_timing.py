"""What a growth says of its moment, by the log of the run that it grows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import ckptgrow
from tests.helpers.commands import as_json
from tests.helpers.families import still_run

STEPS = range(100, 3100, 100)


def power_law(exponent: float) -> Callable[[int], float]:
    """A loss whose d log L / d log C is `exponent` everywhere."""
    return lambda step: 10.0 * step**exponent


def run_with_log(directory: Path, loss: Callable[[int], float], step: int = 3000) -> Path:
    """A run's directory: a log of validations, and a checkpoint at a step."""
    (directory / "checkpoints").mkdir(parents=True)
    lines = ["step,loss,val_loss", *(f"{one},,{loss(one):.9f}" for one in STEPS)]
    (directory / "metrics.csv").write_text("\n".join(lines) + "\n")
    path = still_run(directory / "checkpoints" / "last.ckpt", "gpt2")
    torch.save({**torch.load(path, weights_only=True), "global_step": step}, path)
    return path


def notes(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str = "width") -> str:
    target = tmp_path / ("grown" if source.is_dir() else "grown.ckpt")
    return "\n".join(as_json([command, str(source), str(target), "--dry-run"], capsys)["notes"])


@pytest.mark.parametrize("command", ["width", "depth"])
def test_a_run_that_learns_fast_is_told_with_its_slope(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    said = notes(run_with_log(tmp_path / "run", power_law(-0.25)), tmp_path, capsys, command)
    assert "-0.250" in said and "at step 3,000" in said
    assert {"width": "-0.0475", "depth": "-0.0575"}[command] in said


def test_only_what_the_log_says_up_to_the_checkpoint_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run went on, flat, after the checkpoint that is grown; and one whose checkpoint lies before ten evaluations."""
    bent = {step: 10.0 * min(step, 1500) ** -0.25 for step in STEPS}
    assert "at step 1,500" in notes(run_with_log(tmp_path / "run", bent.__getitem__, 1500), tmp_path, capsys)
    assert "learns fast" not in notes(run_with_log(tmp_path / "young", power_law(-0.25), 900), tmp_path, capsys)


def test_a_run_past_tau_is_told_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "learns fast" not in notes(run_with_log(tmp_path / "run", power_law(-0.02)), tmp_path, capsys)


def test_without_a_log_or_with_a_broken_one_nothing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = run_with_log(tmp_path / "run", power_law(-0.25))
    for text in ("", "step,val_loss\n1,x\n", "\0"):
        (tmp_path / "run" / "metrics.csv").write_text(text)
        assert "learns fast" not in notes(source, tmp_path, capsys)


def test_the_trainers_own_history_tells_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = run_with_log(tmp_path / "run", power_law(-0.25))
    ckptgrow.convert(source, tmp_path / "checkpoint-3000", "huggingface")
    path = tmp_path / "checkpoint-3000" / "trainer_state.json"
    state = json.loads(path.read_text())
    rows = [{"step": step, "eval_loss": power_law(-0.3)(step)} for step in STEPS]
    path.write_text(json.dumps({**state, "global_step": 3000, "log_history": rows}))
    assert "d log L / d log C is -0.300" in notes(tmp_path / "checkpoint-3000", tmp_path, capsys)
