"""The view of a run tells the newest step, and takes next to nothing of the run's time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from ckptgrow.commands._run_view import LOOKING_SHARE, RunView
from ckptgrow.run.standing import JobStanding, Standing
from ckptgrow.train.step_progress import Progress

COST = 0.004  # seconds that a look takes here


class Shown:
    """Stands for the terminal's live part."""

    def __init__(self) -> None:
        self.text = ""

    def update(self, text: Any) -> None:
        self.text = str(text)


class Silent:
    def say(self, *words: Any, **styles: Any) -> None:
        pass


def progress(step: int) -> Progress:
    return Progress(step=step, total=9999, tokens=step, lr=1e-3, loss=2.0, val_loss=None, tokens_per_second=1e3,
                    is_logged=True)  # fmt: skip


def test_looking_at_long_logs_takes_a_hundredth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only the looks and the steps move."""
    now, looks = [0.0], [0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def look() -> Standing:
        now[0] += COST
        looks[0] += 1
        return Standing(out=Path("run"), jobs=(JobStanding("stage-1/train", "under way", None),), progress=None,
                        slope=None, tau=None, flops_left=1e9, seconds_left=None, free_bytes=2**30)  # fmt: skip

    live = Shown()
    view: Any = RunView(Silent(), look, live)  # pyright: ignore[reportArgumentType]
    view._every = 0.0
    view.job("stage-1/train", "")
    for step in range(1, 2000):
        now[0] += 0.002
        view.trained("stage-1", progress(step))
        assert f"step {step:,} of 9,999" in live.text
    assert 1 < looks[0] <= 1 + LOOKING_SHARE * now[0] / COST
    before = looks[0]
    view.job("stage-1/evaluate", "")  # marks have changed
    assert looks[0] == before + 1
