"""The picture: loss over compute."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.savings.measures import Point
from benchmarks.savings.table import Table
from benchmarks.savings.tiers import TEXTS


def draw(table: Table, path: Path) -> None:
    """Loss over compute: scratch's runs and their hull, the small model alone, each recipe's mean over seeds."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 6))
    for _, result in table.done("scratch"):
        axes.plot(*_columns(result.points("whole")), color="0.8", linewidth=0.8)
    for seed in table.piece.seeds[:1]:
        axes.plot(*_columns(table.envelope(seed, "whole")), color="black", label="large from scratch, best (hull)")
        small = table.at_budget("small", seed)
        if small is not None:
            axes.plot(*_columns(small.points("whole")), color="black", linestyle="--", label="small alone")
    grown: dict[str, list[Sequence[Point]]] = {}
    for arm, result in table.done("grown"):
        if not result.went_wrong and arm.start is not None and arm.multiplier == 1:
            began = arm.start.tokens
            points = [(row.whole, row.loss) for row in result.rows if row.tokens >= began]
            grown.setdefault(f"{arm.recipe} at {arm.point:g}", []).append(points)
    for label, curves in grown.items():
        mean = [(one[0][0], statistics.fmean(point[1] for point in one)) for one in zip(*curves, strict=False)]
        axes.plot(*_columns(mean), linewidth=1.2, label=label)
    losses = [result.final for result in table.results.values() if not result.went_wrong]
    low, high = min(losses), max(losses)
    axes.set(xscale="log", xlabel="FLOPs, embeddings included", ylabel="validation loss, nats", title=table.piece.name)
    axes.set_ylim(low - 0.1 * (high - low) - 0.01, high + 1.5 * (high - low) + 0.01)
    budget = table.piece.large.cost_per_token(TEXTS[table.piece.text].vocabulary, table.piece.length)
    whole = budget.times(table.piece.steps * table.piece.batches[0] * table.piece.length).whole
    axes.set_xlim(whole / 8, whole * 2.1)
    axes.axvline(whole, color="0.6", linestyle=":", linewidth=0.8)
    axes.legend(fontsize=7)
    partial = path.with_suffix(".partial.png")
    figure.savefig(partial, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    partial.replace(path)


def _columns(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point[0] for point in points], [point[1] for point in points]
