"""One picture of any runs: validation loss against the compute of all that led to each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ckptgrow.planning.figure_style import AXIS, COLOURS, GRAY, RED, paper_axes, save, short_number, tick_losses
from ckptgrow.report.lineages import ShownRun


def draw_runs(path: Path, runs: Sequence[ShownRun]) -> None:
    """Writes a log-log figure, in the format that the path's ending says; growths are dotted lines between runs."""
    figure, axes = paper_axes()
    by_name = {one.curve.name: one.curve for one in runs}
    for number, one in enumerate(runs):
        curve, colour = one.curve, COLOURS[number % len(COLOURS)]
        label = f"{curve.name}: {short_number(curve.params)}"
        axes.plot(curve.flops, curve.val_losses, color=colour, marker=".", markersize=3, label=label)
        if one.grown_from is not None:
            before = by_name[one.grown_from]
            place = float(before.flops[-1]), float(before.val_losses[-1])
            behind = float(curve.flops[0]), float(curve.val_losses[0])
            axes.plot(*zip(place, behind, strict=True), ":", color=GRAY, lw=1.0)
            axes.plot(*place, "o", color=RED, markersize=4.5, zorder=5)
    low = min(float(one.curve.val_losses.min()) for one in runs)
    high = max(float(one.curve.val_losses.max()) for one in runs)
    axes.set_ylim(0.98 * low, 1.02 * high)
    tick_losses(axes, 0.98 * low, 1.02 * high)
    axes.set(xlabel=AXIS[0], ylabel=AXIS[1])
    axes.legend(frameon=False, loc="best", fontsize=8)
    save(figure, path)
