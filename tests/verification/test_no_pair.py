"""Two checkpoints that are no pair differ in everything: verify says so first, and then only some of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ckptgrow.cli import run
from tests.helpers.paths import ROOT


def test_two_runs_are_told_apart_in_a_few_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, other = ROOT / "fixtures" / "gpt2-tiny.ckpt", tmp_path / "other.ckpt"
    tree = torch.load(small, weights_only=True)
    for number in range(30):
        tree["hyper_parameters"][f"mine_{number}"] = number
    torch.save(tree, other)
    assert run(["verify", str(small), str(other)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "different, in 30 respects" and lines[-1] == "different"
    assert len([one for one in lines if one.startswith("- hyper_parameters")]) == 10
    assert "- and 20 more, all of them in --json" in lines
    assert run(["verify", str(small), str(other), "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["sentences"]) == 30
