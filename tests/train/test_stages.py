"""Runs of several stages, and where a disk is full."""

from __future__ import annotations

import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from ckptgrow.cli import run as run_command
from tests.helpers.disks import can_mount, mounted
from tests.helpers.training_runs import config_file, losses, tiny_data, train_here


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"))


def test_train_width_train_depth_train_falls_in_every_stage_and_never_jumps(tmp_path: Path, data: Path) -> None:
    """Through the commands alone, judged by the validation loss."""
    config = config_file(tmp_path)
    common = [f"--data={data}", "--batch-size=8", "--schedule=constant", "--val-every=10", "--save-every=60"]
    train_here([*common, f"--config={config}", f"--out={tmp_path / 'a'}", "--train-steps=60"])
    for before, after, grow, steps in (
        ("a", "b", ["width", "--noise", "0.5", "--lr-rule", "mup"], 120),
        ("b", "c", ["depth"], 180),
    ):
        source, grown = tmp_path / before / "checkpoints" / "last.ckpt", tmp_path / f"{after}.ckpt"
        assert run_command([grow[0], str(source), str(grown), *grow[1:]]) == 0
        assert run_command(["verify", str(source), str(grown)]) == 0
        train_here([*common, f"--resume={grown}", f"--out={tmp_path / after}", f"--train-steps={steps}"])
    stages = [list(losses(tmp_path / name, "val_loss").values()) for name in "abc"]
    assert all(stage[-1] < stage[0] for stage in stages)
    for before, after in pairwise(stages):
        assert after[0] < before[-1]  # ten steps into the next stage, it is below where the last one ended


@pytest.mark.skipif(not can_mount(), reason="this machine does not allow mounting a small disk")
def test_a_full_disk_stops_the_run_and_the_last_good_checkpoint_survives(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checkpoints of 90 kB on a disk of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    assert mounted(disk, "1m")
    try:
        arguments = [f"--data={data}", f"--config={config_file(tmp_path)}", "--batch-size=4", "--save-every=1"]
        train_here([*arguments, f"--out={disk / 'out'}", "--train-steps=60"], expected=2)
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1 and "could not be written" in error and "--resume" in error
        found = sorted((disk / "out" / "checkpoints").iterdir())
        saved = [torch.load(one, weights_only=True)["global_step"] for one in found if one.name != "last.ckpt"]
        assert (
            torch.load(disk / "out" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == max(saved) > 3
        )
        assert not [one for one in found if "partial" in one.name]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
