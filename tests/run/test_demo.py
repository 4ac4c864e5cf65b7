"""The demo runs from nothing, shows the commands that it runs, and tells what it measured."""

from __future__ import annotations

import json
import shlex
import socket
from pathlib import Path

import pytest
import torch

from ckptgrow.cli import run as run_command
from ckptgrow.demo import demo_plan
from tests.helpers.commands import refused
from tests.helpers.training_runs import losses


def no_network(*_: object) -> None:
    raise OSError("the demo is offline")


def test_the_demo_is_what_its_commands_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a few steps; compute is equal where parameters, head included, times steps are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(demo_plan, "SMALL_STEPS", 24)
    monkeypatch.setattr(demo_plan, "LARGE_STEPS", 16)
    monkeypatch.setattr(demo_plan, "TRAIN", {**demo_plan.TRAIN, "val_every": 8, "val_sequences": 16})
    assert run_command(["demo", "--json"]) == 0
    output = capsys.readouterr()
    assert (
        "sequences as long as the model reads; val_loss is over the split's first val_sequences"
        in output.err + output.out
    )
    found = json.loads(output.out)
    commands = [shlex.split(line[2:]) for line in output.err.splitlines() if line.startswith("$ ")]
    assert [one[1] for one in commands] == ["data", "run", "train", "report", *["generate"] * 3]
    stages = {name: Path("demo", "run", name) for name in ("stage-1", "stage-2")}
    for name, directory in {**stages, "from scratch": Path("demo", "scratch")}.items():
        validated = losses(directory, "val_loss")
        assert found["val_losses"][name] == validated[max(validated)]
    ends = {name: one / "checkpoints" / "last.ckpt" for name, one in stages.items()}
    states = [torch.load(end, weights_only=True)["state_dict"] for end in ends.values()]
    sizes = [sum(one.numel() for name, one in state.items() if "lm_head" not in name) for state in states]
    steps = torch.load("demo/scratch/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert steps - 1 < (24 * sizes[0] + 16 * sizes[1]) / sizes[1] <= steps
    page = Path("demo/report.html").read_text()
    assert "from scratch" in page and "passed" in page

    by_hand = Path("by-hand")
    by_hand.mkdir()
    assert run_command([word.replace("demo/data", "by-hand/data") for word in commands[0][1:]]) == 0
    assert (by_hand / "data" / "train.bin").read_bytes() == Path("demo/data/train.bin").read_bytes()
    refused(["demo"], capsys, "holds a demo already", "--force")
