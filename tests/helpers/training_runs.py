"""Tiny training runs through the command, in processes of their own."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ckptgrow.cli import run as run_command
from ckptgrow.data.preparation import prepare
from tests.helpers.processes import LIMIT, Started, completed

CONFIG = {
    "model_type": "gpt2",
    "vocab_size": 256,
    "n_positions": 16,
    "n_embd": 12,
    "n_layer": 2,
    "n_head": 3,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
TINY = [
    "--seqlen=16",
    "--warmup-steps=3",
    "--lr=3e-3",
    "--log-every=1",
    "--val-every=1000",
    "--val-batches=2",
    "--accelerator=cpu",
]


def tiny_data(directory: Path, num_documents: int = 60) -> Path:
    """About 2,000 training tokens: a pass over the data is some 120 sequences of 16."""
    source = directory / "text.txt"
    source.write_text("\n".join(f"the {n} th of many lines, {'so ' * (n % 5)}on" for n in range(num_documents)))
    prepare([str(source)], directory / "data", val_fraction=0.2)
    return directory / "data"


def config_file(directory: Path) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps(CONFIG))
    return path


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def train_here(arguments: Sequence[str], expected: int = 0) -> None:
    """A run in this process: for what needs no signals and no second process."""
    assert run_command(["train", *TINY, *arguments]) == expected


def train_in_process(arguments: Sequence[str], expected: int = 0) -> subprocess.CompletedProcess[str]:
    (done,) = completed("ckptgrow", ["train", *TINY, *arguments])
    assert done.returncode == expected, done.stderr[-3000:]
    return done


def start_at(arguments: Sequence[str], path: Path) -> Started:
    """A run that has written a file."""
    process = Started("ckptgrow", ["train", *TINY, *arguments])
    limit = time.monotonic() + LIMIT
    while not path.exists() and process.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.005)
    return process


def kill_at(arguments: Sequence[str], path: Path) -> None:
    """Kills a run and all its processes as soon as it has written a file."""
    process = start_at(arguments, path)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def rows(out: Path) -> list[dict[str, str]]:
    """All rows of a run's metrics."""
    with (out / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def losses(out: Path, column: str = "loss") -> dict[int, float]:
    """A column by step; each step once, or the run has done one twice."""
    found = [(int(row["step"]), float(row[column])) for row in rows(out) if row[column]]
    assert len({step for step, _ in found}) == len(found)
    return dict(found)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]
