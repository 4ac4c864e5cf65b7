"""A figure of a plan from two curves: both curves, the three points, the growth, and the saved compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ckptgrow.planning.figure_style import AXIS, BLUE, GRAY, ORANGE, RED, paper_axes, save, tick_losses
from ckptgrow.planning.growth_point import GrowthPoint
from ckptgrow.planning.learning_curves import Curve

BELOW = 0.26  # of the curves' height in log, for the saving
Place = tuple[float, float]


def draw(path: Path, small: Curve, large: Curve, point: GrowthPoint) -> None:
    """Writes a log-log figure of loss against compute, in the format that the path's ending says."""
    figure, axes = paper_axes()
    before, target = _at(small, point.step_before), _at(large, point.step_target)
    optimal = _at(large, point.step_optimality)
    saved = target[0] - before[0]
    top, bottom = _limits(small, large, point)
    seen_small, seen_large = small.losses <= top, large.losses <= top
    axes.plot(small.compute[seen_small], small.losses[seen_small], color=BLUE, label="small model")
    axes.plot(large.compute[seen_large], large.losses[seen_large], color=GRAY, label="large model, from scratch")
    going_on = (large.compute >= target[0]) & (large.compute <= optimal[0])
    axes.plot(large.compute[going_on] - saved, large.losses[going_on], color=ORANGE, label="grown model")
    axes.annotate(
        "", target, before, arrowprops={"arrowstyle": "-|>", "color": RED, "lw": 1.2, "shrinkA": 3, "shrinkB": 3}
    )
    _saved_compute(axes, optimal, saved, bottom, point)
    operator = "width and depth" if point.operator == "both" else point.operator
    names = (
        (before, "o", f"grow {operator},\nstep {point.step_before:,}", (-6, -8), "right"),
        (target, "s", f"same loss,\nstep {point.step_target:,}", (7, 6), "left"),
        (optimal, "D", f"optimal,\nstep {point.step_optimality:,}", (7, 5), "left"),
    )
    for place, marker, text, offset, side in names:
        axes.plot(*place, marker=marker, color=RED, markersize=4.5, linestyle="none", zorder=5)
        axes.annotate(
            text,
            place,
            offset,
            textcoords="offset points",
            fontsize=7.5,
            ha=side,
            va="top" if offset[1] < 0 else "bottom",
        )
    axes.set_ylim(bottom, top)
    tick_losses(axes, bottom, top)
    axes.set(xlabel=AXIS[0], ylabel=AXIS[1])
    axes.legend(frameon=False, loc="upper right", fontsize=8)
    save(figure, path)


def _at(curve: Curve, step: int) -> Place:
    index = int(np.searchsorted(curve.steps, step))
    return float(curve.compute[index]), float(curve.losses[index])


def _limits(small: Curve, large: Curve, point: GrowthPoint) -> Place:
    """The largest and smallest loss to show: the part of the curves with the points, and room below for the saving."""
    top = min(1.35 * point.loss_at_growth, float(large.losses.max()))
    lowest = float(min(small.losses.min(), large.losses.min()))
    return top, lowest * (lowest / top) ** BELOW


def _saved_compute(axes: Any, optimal: Place, saved: float, bottom: float, point: GrowthPoint) -> None:
    """Draws a double arrow below the end of both curves, from the grown model's compute to the large model's."""
    end = optimal[0] - saved
    height = bottom * (optimal[1] / bottom) ** 0.6
    for compute in (end, optimal[0]):
        axes.plot([compute, compute], [height * 0.99, optimal[1]], color=RED, lw=0.7, linestyle=":", zorder=1)
    ends = {"arrowstyle": "<->", "color": RED, "lw": 0.8, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (end, height), (optimal[0], height), arrowprops=ends)
    low_share, high_share = point.spread.saving
    axes.annotate(
        f"saves {point.saving:.1%}\n(90 %: {100 * low_share:.0f}–{high_share:.0%})",
        (np.sqrt(end * optimal[0]), height),
        (0, -4),
        textcoords="offset points",
        fontsize=7.5,
        ha="center",
        va="top",
        color=RED,
    )
