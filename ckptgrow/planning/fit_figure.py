"""A figure of a fitted law: the evaluations of every curve, and the law beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ckptgrow.planning.figure_style import AXIS, COLOURS, paper_axes, save, short_number, tick_losses
from ckptgrow.planning.fitting import Points
from ckptgrow.planning.fixed_batch import loss_after
from ckptgrow.planning.laws import Law


def draw_fit(path: Path, points: Points, law: Law) -> None:
    """Writes a log-log figure of loss against each model's own compute, in the format that the path's ending says."""
    figure, axes = paper_axes()
    for number in np.unique(points.curves):
        of_curve = points.curves == number
        size, batch = float(points.sizes[of_curve][0]), float(points.tokens_per_step[of_curve][0])
        tokens = points.steps[of_curve] * batch
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(6 * size * tokens, points.losses[of_curve], ".", color=colour, markersize=2.5, alpha=0.6)
        fine = np.geomspace(tokens[0], tokens[-1], 200)
        axes.plot(6 * size * fine, loss_after(law, size, fine, batch), color=colour, lw=1.2, label=short_number(size))
    low, high = float(points.losses.min()), float(points.losses.max())
    axes.set_ylim(0.99 * low, 1.01 * high)
    tick_losses(axes, low, high)
    axes.set(xlabel=AXIS[0], ylabel=AXIS[1])
    axes.legend(frameon=False, loc="upper right", fontsize=8, title="parameters; lines: the law", title_fontsize=8)
    save(figure, path)
