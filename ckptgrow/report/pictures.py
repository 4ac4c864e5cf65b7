"""The pictures of a report: loss against compute, and learning rates."""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ckptgrow.planning.figure_style import AXIS, BLUE, GRAY, GREEN, ORANGE, RED, paper_axes, tick_losses
from ckptgrow.report.run_record import RunRecord, TrainedCurve

COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9")
HIGHEST = 0.55  # of the fall: what lies above is a model that has learned nothing yet
DOTS = 170  # an inch
FEW = 20  # validations, of which each is marked


def pictures_of(record: RunRecord) -> dict[str, bytes]:
    """PNG files by name; none before a first validation."""
    if not any(len(one.val_losses) for one in record.curves):
        return {}
    return {"loss": _drawn(record, _losses), "rates": _drawn(record, _rates)}


def as_address(picture: bytes) -> str:
    """The picture itself, where a page names one."""
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")


def write_pictures(pictures: dict[str, bytes], directory: Path) -> list[Path]:
    """As files; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        (directory / f"{name}.png").write_bytes(picture)
    return [directory / f"{name}.png" for name in pictures]


def _drawn(record: RunRecord, draw: Callable[[Any, RunRecord], None]) -> bytes:
    figure, axes = paper_axes()
    draw(axes, record)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DOTS, format="png")
    return buffer.getvalue()


def _losses(axes: Any, record: RunRecord) -> None:
    """Validation losses of all stages, the model from scratch, and what the planner expected."""
    shown = [one for one in record.curves if len(one.val_losses)]
    if record.scratch is not None and len(record.scratch.val_losses):
        _plot(axes, record.scratch, GRAY, "from scratch")
    for number, one in enumerate(shown):
        _plot(axes, one, COLOURS[number % len(COLOURS)], one.name)
    for before, after in itertools.pairwise(shown):
        axes.plot(before.flops[-1], before.val_losses[-1], "o", color=RED, markersize=4.5, zorder=5)
        growth = ", ".join(one.operator for one in record.growths if one.stage == after.name)
        place = float(before.flops[-1]), float(before.val_losses[-1])
        behind = float(after.flops[0]), float(after.val_losses[0])
        axes.plot(*zip(place, behind, strict=True), ":", color=GRAY, lw=1.0)  # nothing was measured there
        axes.annotate(growth, place, (5, 5), textcoords="offset points", fontsize=7.5, color=RED)
    if record.expected:
        flops, losses = zip(*record.expected, strict=True)
        axes.plot(flops, losses, "x--", color="black", lw=0.8, markersize=5, label=f"expected ({record.law or 'plan'})")
    low, high = _limits(record)
    axes.set_ylim(low, high)
    begin = min(float(one.flops[one.val_losses <= high].min(initial=one.flops[-1])) for one in shown)
    axes.set_xlim(begin / 1.1, None)
    tick_losses(axes, low, high)
    axes.tick_params(which="minor", labelsize=5.5)  # where compute spans less than a decade, these are named too
    axes.set(xlabel=AXIS[0], ylabel=AXIS[1])
    axes.legend(frameon=False, loc="best", fontsize=8)


def _plot(axes: Any, curve: TrainedCurve, colour: str, name: str) -> None:
    """A curve of losses; of few validations each has a mark."""
    marker = "." if len(curve.val_losses) <= FEW else None
    axes.plot(curve.flops, curve.val_losses, color=colour, marker=marker, label=_label(name, curve.params))


def _limits(record: RunRecord) -> tuple[float, float]:
    """Losses to show: the lower part of the first model's fall, or all of it where it is short, and all growths."""
    curves = [one for one in record.compared if len(one.val_losses)]
    lowest = min(float(one.val_losses.min()) for one in curves)
    lowest = min([lowest, *(loss for _, loss in record.expected)])
    top = float(curves[0].val_losses.max())
    if len(curves[0].val_losses) <= FEW:
        return 0.97 * lowest, 1.03 * max(float(one.val_losses.max()) for one in curves)
    ends = [float(one.val_losses[-1]) for one in curves]
    return 0.97 * lowest, max(1.05 * max(ends), math.exp((1 - HIGHEST) * math.log(lowest) + HIGHEST * math.log(top)))


def _rates(axes: Any, record: RunRecord) -> None:
    for number, one in enumerate(record.curves):
        if len(one.rates):
            axes.plot(
                one.step_flops, one.rates, color=COLOURS[number % len(COLOURS)], label=_label(one.name, one.params)
            )
    largest = max(float(np.max(one.rates, initial=0.0)) for one in record.curves)
    axes.set(xscale="linear", yscale="linear", xlabel=AXIS[0], ylabel="learning rate")
    axes.set_ylim(0, 1.1 * largest)
    axes.xaxis.get_offset_text().set_fontsize(8)
    axes.legend(frameon=False, loc="best", fontsize=8)


def _label(name: str, params: int) -> str:
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if params >= unit:
            return f"{name}: {params / unit:.3g} {letter}"
    return f"{name}: {params}"
