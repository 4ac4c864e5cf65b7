"""How long a run warms up where nothing else is asked for; the schedules themselves are `state.train_schedule`."""

from __future__ import annotations

MOST_WARMUP = 1000  # steps: the staged-training script's


def default_warmup(num_steps: int) -> int:
    """Steps of warm-up for a run of so many where nothing else is asked for: 1000, at most a third of them."""
    return min(MOST_WARMUP, num_steps // 3)
