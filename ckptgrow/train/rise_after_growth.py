"""The rise of the learning rate right after a growth that nobody said another one for.

A model that was grown at the small one's rate jumps up in loss for as long as the rate is too high for it; a rate that
rises again over a few hundredths of the run takes the jump away, and the run ends as low or lower (measured:
benchmarks/README.md, the tiers quick-rates and quick-depth).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptgrow.formats.growth_log import Rewarm
from ckptgrow.state.train_schedule import NEW_RISE
from ckptgrow.train.resuming import Resumed
from ckptgrow.train.settings import TrainSettings

SHARE = 0.03  # of all steps of the run
JUMPING = ("width", "depth")  # operators whose grown models the rate is too high for


def rise_after_growth(resumed: Resumed, settings: TrainSettings) -> Rewarm | None:
    """The rise for a run that goes on right from a growth in width or depth; None where something says another one, or
    where the run's first warm-up is not over.
    """
    growth: Mapping[str, Any] = resumed.growth
    says_otherwise = settings.rewarm is not None or growth.get("rewarm") or NEW_RISE in growth
    if says_otherwise or not resumed.is_newly_grown or growth["history"][-1]["operator"] not in JUMPING:
        return None
    steps = min(round(SHARE * settings.train_steps), settings.train_steps - resumed.step)
    if steps <= 1 or resumed.step < settings.warmup_steps:
        return None
    return {"start": resumed.step, "steps": steps}


def rise_in_words(rise: Rewarm) -> str:
    """A sentence on it."""
    return (
        f"learning rate: rises again over {rise['steps']:,} steps after growth, {SHARE * 100:g} % of the run; "
        "--rewarm 0 for none"
    )
