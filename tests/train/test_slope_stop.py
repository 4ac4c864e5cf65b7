"""Validations are done once each however a run is interrupted, and a run can end where their slope says so."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import lightning
import pytest
import torch

from ckptgrow.cli import run as run_command
from ckptgrow.train.module import LanguageModel
from ckptgrow.train.saving import Checkpoints
from tests.helpers.commands import refused
from tests.helpers.training_runs import config_file, losses, tiny_data, train_here, weights

TAU = -0.4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted, of 80 steps with a validation every fourth one."""
    out = tmp_path_factory.mktemp("whole") / "out"
    config = config_file(out.parent)
    train_here([*arguments(data, out), f"--config={config}"])
    return out


def arguments(data: Path, out: Path) -> list[str]:
    sizes = ["--batch-size=4", "--grad-accum=2", "--train-steps=80", "--schedule=constant"]
    return [f"--data={data}", f"--out={out}", *sizes, "--val-every=4", "--save-every=4"]


class Killed(BaseException):
    """Stands for SIGKILL: nothing that the run would still have done happens."""


def kill_behind(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as the checkpoint of a step is there."""
    save = Checkpoints.save

    def saved(self: Checkpoints, trainer: lightning.Trainer) -> None:
        save(self, trainer)
        if trainer.global_step == step:
            raise Killed

    monkeypatch.setattr(Checkpoints, "save", saved)


def interrupt_in(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a step is at work."""
    training_step = LanguageModel.training_step

    def stepped(self: LanguageModel, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        if self.trainer.global_step == step - 1 and batch_idx % 2:
            os.kill(os.getpid(), signal.SIGINT)
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(LanguageModel, "training_step", stepped)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("interrupted", ["killed", "interrupted"])
def test_a_validation_is_neither_lost_nor_done_twice(whole: Path, data: Path, tmp_path: Path, interrupted: str) -> None:
    """Interrupted at a step that is saved and validated, the second time while it goes on."""
    out = tmp_path / "out"
    begun = [*arguments(data, out), f"--config={config_file(tmp_path)}"]
    going_on = [*arguments(data, out), f"--resume={out / 'checkpoints' / 'last.ckpt'}"]
    for start, step in ((begun, 4), (going_on, 44)):
        with pytest.MonkeyPatch.context() as patch:
            if interrupted == "killed":
                kill_behind(step, patch)
                with pytest.raises(Killed):
                    train_here(start)
            else:
                interrupt_in(step, patch)
                train_here(start, expected=130)
        assert torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == step
    train_here(going_on)
    for column in ("loss", "val_loss"):
        assert losses(out, column) == losses(whole, column)
    found, expected = (weights(one / "checkpoints" / "last.ckpt") for one in (out, whole))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def grow_now(rows: list[dict[str, str]], path: Path, capsys: pytest.CaptureFixture[str]) -> bool:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", "val_loss"])
        writer.writeheader()
        writer.writerows({"step": row["step"], "val_loss": row["val_loss"]} for row in rows)
    capsys.readouterr()
    assert run_command(["plan", "watch", str(path), "--operator=width", f"--threshold={TAU}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    return found["grow_now"] and found["slope"] > TAU


def test_a_run_ends_at_the_validation_at_which_plan_watch_says_to_grow(
    whole: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (whole / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val_loss"]]
    out = tmp_path / "out"
    train_here([*arguments(data, out), f"--config={config_file(tmp_path)}", f"--until-slope={TAU}"])
    capsys.readouterr()
    validated = losses(out, "val_loss")
    num = len(validated)
    assert 10 < num < len(rows)
    assert grow_now(rows[:num], tmp_path / "log.csv", capsys)
    assert not any(grow_now(rows[:count], tmp_path / "log.csv", capsys) for count in (10, num - 2, num - 1))
    last = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == max(validated) == 4 * num

    again = ["train", f"--data={data}", f"--out={out}", f"--resume={out / 'checkpoints' / 'last.ckpt'}"]
    refused([*again, f"--until-slope={TAU}"], capsys, f"step {4 * num} already", "--until-slope")


def test_a_slope_counts_the_evaluations_of_one_model(data: Path, whole: Path, tmp_path: Path) -> None:
    """Those of before the growth, at which the rule says to grow, lie in the grown checkpoint too."""
    out = tmp_path / "out"
    train_here([*arguments(data, out), f"--config={config_file(tmp_path)}", f"--until-slope={TAU}"])
    reached = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert run_command(["depth", str(out / "checkpoints" / "last.ckpt"), str(tmp_path / "deep.ckpt")]) == 0
    train_here(
        [
            *arguments(data, tmp_path / "next"),
            f"--resume={tmp_path / 'deep.ckpt'}",
            "--train-steps=120",
            "--until-slope=-5",
        ]
    )
    assert len(losses(tmp_path / "next", "val_loss")) >= 10 and min(losses(tmp_path / "next", "val_loss")) > reached


def test_an_interrupted_run_ends_at_the_same_slope(
    whole: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The evaluations of before the interruption count."""
    out, asked = tmp_path / "out", f"--until-slope={TAU}"
    with pytest.MonkeyPatch.context() as patch:
        interrupt_in(44, patch)
        train_here([*arguments(data, out), f"--config={config_file(tmp_path)}", asked], expected=130)
    train_here([*arguments(data, out), f"--resume={out / 'checkpoints' / 'last.ckpt'}", asked])
    with (whole / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val_loss"]]
    num = len(losses(out, "val_loss"))
    assert 11 < num < len(rows)
    assert grow_now(rows[:num], tmp_path / "log.csv", capsys)


def test_a_slope_needs_validation_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("a line of text\n" * 50)
    assert (
        run_command(["data", str(tmp_path / "text.txt"), str(tmp_path / "d"), "--val-fraction=0", "--tokenizer=bytes"])
        == 0
    )
    config = config_file(tmp_path)
    refused(
        [
            "train",
            f"--data={tmp_path / 'd'}",
            f"--config={config}",
            f"--out={tmp_path / 'o'}",
            "--seqlen=16",
            "--until-slope=-1",
        ],
        capsys,
        "no validation tokens",
    )
    assert not (tmp_path / "o").exists()
