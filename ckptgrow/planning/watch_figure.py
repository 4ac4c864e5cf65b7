"""A figure of a running training: its losses, its slope with its interval, and τ."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ckptgrow.planning.figure_style import BLUE, GRAY, ORANGE, RED, save, stacked_axes, tick_losses
from ckptgrow.planning.learning_curves import Curve
from ckptgrow.planning.watching import NORMAL_90, Watch, slopes_of

BEGINNING = 0.05  # of the steps: what lies before is so steep that nothing else could be seen


def draw_watch(path: Path, curve: Curve, found: Watch) -> None:
    """Writes loss and slope against the step, one above the other, in the format that the path's ending says."""
    figure, (above, below) = stacked_axes(2)
    slopes, errors = slopes_of(curve)
    shown = curve.steps >= BEGINNING * curve.steps[-1]
    if shown.sum() < 2:
        shown = np.ones(len(curve.steps), bool)
    steps, losses = curve.steps[shown], curve.losses[shown]
    above.set_yscale("log")
    above.plot(steps, losses, ".", color=BLUE, markersize=3)
    margin = 0.05 * float(losses.max() - losses.min()) or 0.05 * float(losses.max())
    low, high = float(losses.min()) - margin, float(losses.max()) + margin
    above.set_ylim(low, high)
    tick_losses(above, low, high)
    above.set_ylabel("validation loss (nats)")
    reach = NORMAL_90 * errors[shown]
    below.plot(steps, slopes[shown], color=BLUE, lw=1.2, label="slope d log L / d log C")
    below.fill_between(steps, slopes[shown] - reach, slopes[shown] + reach, color=BLUE, alpha=0.2, lw=0, label="90 %")
    below.axhline(found.threshold, color=RED, lw=1, label=f"τ = {found.threshold:g}")
    for step, colour, words in (
        (found.crossed_at, ORANGE, "the rule: step {:,}"),
        (found.predicted, GRAY, "by a power law: step {:,}"),
    ):
        if step is not None and step <= 2 * curve.steps[-1]:
            below.axvline(step, color=colour, lw=1, linestyle="--", label=words.format(step))
            above.axvline(step, color=colour, lw=1, linestyle="--")
    below.set(xlabel="optimizer step", ylabel="slope")
    below.legend(frameon=False, fontsize=7, loc="best")
    save(figure, path)
