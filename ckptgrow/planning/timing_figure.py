"""A figure of when growth pays in a run of a fixed length: what it saves, against the step at which it comes."""

from __future__ import annotations

from pathlib import Path

from ckptgrow.planning.figure_style import BLUE, GRAY, GREEN, ORANGE, RED, save, stacked_axes
from ckptgrow.planning.growth_timing import Timing

LOWEST = -0.25  # of the compute: what loses more is not worth a picture


def draw_timing(path: Path, found: Timing, now: float) -> None:
    """Writes the share of compute that is saved against the step of growth, in the format that the path's ending says;
    `now` is the step that the run has come to.
    """
    figure, (axes,) = stacked_axes(1)
    steps, saved = found.savings.steps, 100 * found.savings.saved
    axes.axhline(0, color=GRAY, lw=0.8)
    axes.plot(steps, saved, color=BLUE, lw=1.4, label=f"by the law {found.savings.law.name}")
    if found.window is not None:
        axes.axvspan(*found.window, color=GREEN, alpha=0.15, lw=0, label="nearly as much as at best")
        low, high = found.best_step_range
        least, most = (100 * one for one in found.saving_range)
        best, saving = found.best_step, 100 * found.saving
        reach = [[best - low], [high - best]], [[saving - least], [most - saving]]
        axes.errorbar(best, saving, xerr=reach[0], yerr=reach[1], fmt="o", color=RED, markersize=5, lw=1, capsize=2,
                      zorder=5, label=f"most at step {best:,}: {saving:.1f} %, and its range over laws")  # fmt: skip
    if found.latest is not None and found.latest > 0:
        axes.axvline(found.latest, color=ORANGE, lw=1.2, linestyle="--",
                     label=f"at the latest, by the mixing time: step {found.latest:,}")  # fmt: skip
    axes.axvline(now, color=GRAY, lw=1, linestyle=":", label=f"the run is at step {now:,.0f}")
    axes.set_xlim(0, float(steps[-1]) / 0.98)
    axes.set_ylim(max(100 * LOWEST, float(saved.min())) - 2, max(float(saved.max()), 100 * found.saving_range[1]) + 8)
    axes.set(xlabel="optimizer step of the growth", ylabel="compute saved (%)")
    axes.legend(frameon=True, edgecolor="none", framealpha=0.85, fontsize=7, loc="upper left")
    save(figure, path)
