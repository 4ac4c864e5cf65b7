"""A picture of a plan: both curves, the three points, the growth, and the compute that it saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ckptgrow.errors import MissingDependencyError
from ckptgrow.planning.curves import Curve
from ckptgrow.planning.growth_point import GrowthPoint


def draw(path: Path, small: Curve, large: Curve, point: GrowthPoint) -> None:
    """Writes a PNG of loss against compute, log-log."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("--plot needs `pip install 'ckptgrow[plan]'`") from error
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    axes.loglog(small.compute, small.losses, color="tab:blue", label="small")
    axes.loglog(large.compute, large.losses, color="tab:gray", label="large, from scratch")
    before, target, optimal = (
        _at(small, point.step_before),
        _at(large, point.step_target),
        _at(large, point.step_optimality),
    )
    saved = target[0] - before[0]
    grown = large.compute >= target[0]
    axes.loglog(large.compute[grown] - saved, large.losses[grown], color="tab:orange", label="grown")
    axes.annotate("", before, target, arrowprops={"arrowstyle": "->", "color": "tab:red"})
    for (x, y), name, offset in (
        (before, "grow", (-38, -14)),
        (target, "same loss", (8, 6)),
        (optimal, "optimality", (8, 6)),
    ):
        axes.plot([x], [y], "o", color="tab:red", markersize=4)
        axes.annotate(name, (x, y), xytext=offset, textcoords="offset points", fontsize=8)
    low, high = point.saving_interval
    axes.set_title(f"{point.operator}: saves {point.saving:.1%} of compute ({low:.1%} to {high:.1%})", fontsize=10)
    axes.set_xlabel("compute (FLOPs)")
    axes.set_ylabel("validation loss (nats)")
    losses = np.concatenate([small.losses, large.losses])
    axes.set_ylim(losses.min() * 0.97, min(losses.max(), losses.min() * 2))
    axes.set_yticks([], minor=True)
    ticks = np.round(np.linspace(losses.min(), min(losses.max(), losses.min() * 2), 6), 1)
    axes.set_yticks(ticks, [f"{tick:.1f}" for tick in ticks])
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=160)


def _at(curve: Curve, step: int) -> tuple[float, float]:
    index = int(np.searchsorted(curve.steps, step))
    return float(curve.compute[index]), float(curve.losses[index])
