"""The common style of figures: one column wide, colours that differ in print too, ticks at round losses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ckptgrow.errors import needs

SIZE = (5.2, 3.6)  # inches
AXIS = ("compute (FLOPs)", "validation loss (nats)")
# Okabe and Ito's palette, told apart with any colour vision; gray and red differ in lightness too
BLUE, GRAY, ORANGE, GREEN, RED = "#0072B2", "#8c8c8c", "#E69F00", "#009E73", "#C0392B"
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9")  # of the same palette, for curves in their order


def paper_axes() -> tuple[Any, Any]:
    """A figure that needs no display, and its log-log axes; raises MissingDependencyError without matplotlib."""
    figure, (axes,) = stacked_axes(1)
    axes.set(xscale="log", yscale="log")
    return figure, axes


def stacked_axes(num: int) -> tuple[Any, Sequence[Any]]:
    """A figure that needs no display, and so many axes one above the other, which share what is from left to right."""
    with needs("⟦plot⟧", "plan"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    figure = Figure(figsize=(SIZE[0], SIZE[1] * (1 + 0.3 * (num - 1))), layout="constrained")
    FigureCanvasAgg(figure)
    found: Any = figure.subplots(num, sharex=True, squeeze=False)[:, 0]
    for axes in found:
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_size(9)
        axes.yaxis.label.set_size(9)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure, found


def tick_losses(axes: Any, low: float, high: float) -> None:
    """Sets about six ticks at round losses, labelled with plain numbers."""
    rough = (high - low) / 6
    step = min((one for one in (0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 5.0) if one >= rough), default=10.0)
    ticks = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
    axes.set_yticks([], minor=True)
    axes.set_yticks(ticks, [f"{tick:.2f}" if step < 0.1 else f"{tick:.4g}" for tick in ticks])


def short_number(value: float) -> str:
    """A number with a letter for thousands, millions or billions."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g} {letter}"
    return f"{value:.3g}"


def save(figure: Any, path: Path) -> None:
    """Writes the figure in the format that the path's ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=220)
