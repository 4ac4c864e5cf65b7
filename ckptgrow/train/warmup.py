"""The default length of warm-up; `state.train_schedule` has the schedules themselves."""

from __future__ import annotations

MOST_WARMUP = 1000  # steps: the staged-training script's


def default_warmup(num_steps: int) -> int:
    """The default number of warm-up steps for a run of `num_steps`: 1000, at most a third of these."""
    return min(MOST_WARMUP, num_steps // 3)
