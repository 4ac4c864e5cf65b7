"""Real processes, really killed: the output is absent or whole, and what they leave is cleared by the next run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

import ckptgrow
from ckptgrow.cli import run
from tests.helpers.disks import can_mount, mounted
from tests.helpers.gpt2 import perturbed_gpt2
from tests.helpers.lightning_files import save_lightning
from tests.helpers.processes import Started

STARTED = 60.0  # seconds: far more than a process needs to begin writing


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that writing takes a while."""
    model = perturbed_gpt2(n_embd=192, n_inner=768, n_layer=6)
    return save_lightning(tmp_path_factory.mktemp("source") / "small.ckpt", model)


def started(source: Path, target: Path) -> Started:
    """A growth that has begun to write."""
    process = Started("ckptgrow", ["width", str(source), str(target), "--factor", "4", "--noise", "1"])
    limit = time.monotonic() + STARTED
    while not any(target.parent.glob(".*.partial")) and process.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.005)
    return process


def is_whole(target: Path, source: Path) -> bool:
    tree = torch.load(target, weights_only=True)
    return tree["hyper_parameters"]["config"]["n_embd"] == 768 and len(tree["state_dict"]) > 70


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_and_terminate_leave_nothing(tmp_path: Path, source: Path, number: int, code: int) -> None:
    process = started(source, tmp_path / "out.ckpt")
    time.sleep(0.1)
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    assert list(tmp_path.iterdir()) == []


def kill_at_random(tmp_path: Path, source: Path, seed: int) -> None:
    target = tmp_path / "out.ckpt"
    process = started(source, target)
    time.sleep(random.Random(seed).uniform(0, 1.5))
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = {path.name for path in tmp_path.iterdir()}
    if target.exists():
        assert is_whole(target, source) and left == {"out.ckpt"}
    else:
        assert all(name.endswith(".partial") for name in left)


def test_killed_at_any_moment_the_output_is_absent_or_whole_and_the_next_run_clears_up(
    tmp_path: Path, source: Path
) -> None:
    for seed in range(3):
        kill_at_random(tmp_path, source, seed)
        (tmp_path / "out.ckpt").unlink(missing_ok=True)
    ckptgrow.width(source, tmp_path / "out.ckpt", noise=0)
    assert [path.name for path in tmp_path.iterdir()] == ["out.ckpt"]


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path: Path, source: Path) -> None:
    for seed in range(100, 120):
        kill_at_random(tmp_path, source, seed)
        (tmp_path / "out.ckpt").unlink(missing_ok=True)
    ckptgrow.width(source, tmp_path / "out.ckpt", noise=0)
    assert [path.name for path in tmp_path.iterdir()] == ["out.ckpt"]


def test_what_a_living_process_is_writing_is_left_alone(tmp_path: Path, source: Path) -> None:
    other = tmp_path / f".out.ckpt.{os.getppid()}.partial"
    other.write_text("in use")
    ckptgrow.width(source, tmp_path / "out.ckpt", noise=0)
    assert other.read_text() == "in use"


@pytest.mark.skipif(not can_mount(), reason="this machine does not allow mounting a small disk")
@pytest.mark.parametrize("foreseen", [True, False])
def test_a_full_disk_gives_one_line_and_leaves_nothing(
    tmp_path: Path, source: Path, foreseen: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mounted(tmp_path)
    try:
        if not foreseen:
            monkeypatch.setattr("ckptgrow.formats.known_formats.check_space", lambda target, num_bytes: None)
        assert run(["width", str(source), str(tmp_path / "out.ckpt"), "--factor", "4"]) == 2
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1
        assert ("free" if foreseen else "No space left") in error
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
