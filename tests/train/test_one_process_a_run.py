"""Two processes never write one run: launchers are joined or refused, and a run's directory has one owner."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ckptgrow.errors import RequestError
from ckptgrow.train.launching import processes_of
from ckptgrow.train.occupied import LOCK, occupied
from tests.helpers.training_runs import TINY, config_file, environment, kill_at, losses, start_at, tiny_data, train_here

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "3"}
SRUN = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "0"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    directory = tmp_path_factory.mktemp("data")
    return [f"--data={tiny_data(directory)}", f"--config={config_file(directory)}", "--batch-size=2"]


@pytest.mark.parametrize(
    ("variables", "devices", "nodes", "expected"),
    [
        ({}, None, None, (1, 1)),
        ({}, 2, 3, (2, 3)),
        (TORCHRUN, None, None, (3, 2)),
        (TORCHRUN, 3, 2, (3, 2)),
        ({"RANK": "0", "WORLD_SIZE": "2"}, None, None, (2, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, 2, None, (2, 1)),
        (SRUN, None, None, (2, 2)),
        ({"SLURM_NTASKS": "4"}, None, None, (1, 1)),  # inside an allocation, but not started by srun
    ],
)
def test_devices_are_the_launchers_where_there_is_one(
    variables: dict[str, str], devices: int | None, nodes: int | None, expected: tuple[int, int]
) -> None:
    assert processes_of(variables, devices, nodes) == expected


@pytest.mark.parametrize(
    ("variables", "devices", "words"),
    [(TORCHRUN, 1, "devices=1: torchrun"), (SRUN, 4, "devices=4: srun"), ({"PMI_SIZE": "2"}, None, "mpirun")],
)
def test_what_contradicts_the_launcher_is_refused(variables: dict[str, str], devices: int | None, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        processes_of(variables, devices, None)


def test_a_directory_has_one_owner_and_is_free_afterwards(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    with occupied(out):
        with pytest.raises(RequestError, match=f"process {os.getpid()} .* trains here"), occupied(out):
            pass
        assert (out / LOCK).exists()
    assert not (tmp_path / "a").exists()  # nothing was written there
    with occupied(out):
        (out / "kept").touch()
    assert [one.name for one in out.iterdir()] == ["kept"]


def test_a_second_run_in_a_directory_is_refused_in_one_line_and_the_first_goes_on(
    tmp_path: Path, base: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    process = start_at([*base, f"--out={out}", "--train-steps=100000"], out / LOCK)
    try:
        capsys.readouterr()
        train_here([*base, f"--out={out}", "--train-steps=5"], expected=2)
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1 and f"process {process.pid}" in error
        while not (out / "metrics.csv").exists() or not losses(out):
            assert process.poll() is None
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=240)
    assert code == 143 and not (out / LOCK).exists()


def test_the_lock_of_a_killed_run_does_not_block(tmp_path: Path, base: list[str]) -> None:
    out = tmp_path / "out"
    kill_at([*base, f"--out={out}", "--train-steps=5000", "--save-every=5"], out / "checkpoints" / "last.ckpt")
    assert (out / LOCK).exists()
    last = out / "checkpoints" / "last.ckpt"
    train_here([*base[:1], f"--resume={last}", f"--out={out}", "--train-steps=200", "--save-every=1000"])
    assert not (out / LOCK).exists() and max(losses(out)) == 200


def test_torchrun_without_devices_is_one_run(tmp_path: Path, base: list[str]) -> None:
    out = tmp_path / "out"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "ckptgrow", "train", *TINY]
    command = [*launcher, *base, "--train-steps=4", f"--out={out}", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)  # one object: of one run
    assert found["tokens_seen"] == 4 * 2 * 2 * 16 and set(losses(out)) == {1, 2, 3, 4}
    assert not (out / LOCK).exists()
