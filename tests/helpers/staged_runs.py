"""Tiny staged trainings: three stages on a few thousand bytes, width where the slope says so, then depth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ckptgrow.cli import run as run_command
from tests.helpers.training_runs import CONFIG, rows

STAGES: list[dict[str, Any]] = [
    {"grow": {"when": "slope", "tau": -0.4, "at_most": 70}, "batch_size": 8, "seqlen": 16, "learning_rate": "3e-3",
     "warmup": 3},
    {"operator": "width", "steps": 12},
    {"operator": "depth", "steps": 12, "recipe": {"place": "append"}, "rewarm": 2},
]  # fmt: skip
TRAIN = {"val_every": 4, "save_every": 4, "val_sequences": 16, "log_every": 1, "accelerator": "cpu"}
UNEQUAL = ("tokens_per_second", "seconds_per_step")  # columns of a log that are of the clock


def plan_tree(**changes: Any) -> dict[str, Any]:
    """A plan, with fields changed."""
    return {"config": CONFIG, "train": TRAIN, "verify": {"batches": 1}, "stages": STAGES, **changes}


def plan_file(directory: Path, **changes: Any) -> Path:
    path = directory / "plan.json"
    path.write_text(json.dumps(plan_tree(**changes)))
    return path


def words(plan: Path, data: Path, out: Path) -> list[str]:
    return ["run", str(plan), "--data", str(data), "--out", str(out)]


def run_here(plan: Path, data: Path, out: Path, expected: int = 0) -> None:
    """A run in this process."""
    assert run_command(words(plan, data, out)) == expected


def journal(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]


def state_of(checkpoint: Path) -> dict[str, Any]:
    """All that training goes on from, and the record of growths."""
    tree = torch.load(checkpoint, weights_only=True)
    names = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "position", "tokens_seen", "ckptgrow")
    return {name: tree[name] for name in names if name in tree}


def assert_equal(found: Any, expected: Any, where: str = "") -> None:
    """To the bit."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(expected, Mapping):
        assert list(found) == list(expected), where
        for name in expected:
            assert_equal(found[name], expected[name], f"{where}.{name}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_equal(one, other, f"{where}[{number}]")
    else:
        assert found == expected, where


def assert_same_run(found: Path, expected: Path) -> None:
    """Every stage's log, but for the clock, and every stage's last state."""
    for stage in ("stage-1", "stage-2", "stage-3"):
        logs = [
            [{name: value for name, value in row.items() if name not in UNEQUAL} for row in rows(one / stage)]
            for one in (found, expected)
        ]
        assert logs[0] == logs[1], stage
        states = [state_of(one / stage / "checkpoints" / "last.ckpt") for one in (found, expected)]
        assert_equal(*states, where=stage)
