"""The statistics of the report: the best loss at a compute, the compute to a loss, slopes, intervals over seeds.

A curve is a list of points (compute, loss). The large model's best is the lower convex hull of all its runs' points
over log compute: losses fall convexly in log compute, so what lies above the hull is a run in the midst of its
schedule, or one that was tuned badly.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

Point = tuple[float, float]  # compute in FLOPs, loss in nats
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and what lies on either side of it; None where one seed says nothing of the spread."""

    mean: float
    half: float | None
    num: int


@dataclass(frozen=True)
class Bound:
    """A number, or the side of it on which the true one lies: "=", "≥" or "≤"."""

    value: float
    sign: str = "="


def interval(values: Sequence[float]) -> Interval | None:
    """Student's t interval at 95 % for the mean; values that are paired are given as their differences."""
    if not values:
        return None
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, None, len(values))
    from scipy.stats import t

    quantile = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return Interval(mean, quantile * statistics.stdev(values) / math.sqrt(len(values)), len(values))


def hull(points: Iterable[Point]) -> list[Point]:
    """The lower convex hull over log compute, as far as it falls: each point has more compute and less loss."""
    least: dict[float, float] = {}
    for compute, loss in points:
        least[compute] = min(loss, least.get(compute, math.inf))
    kept: list[Point] = []
    for point in sorted(least.items()):
        while len(kept) > 1 and _is_above(kept[-2], kept[-1], point):
            kept.pop()
        kept.append(point)
    lowest = min(range(len(kept)), key=lambda number: kept[number][1], default=0)
    return kept[: lowest + 1]


def _is_above(left: Point, middle: Point, right: Point) -> bool:
    (x0, y0), (x1, y1), (x2, y2) = ((math.log(compute), loss) for compute, loss in (left, middle, right))
    return (y1 - y0) * (x2 - x0) >= (y2 - y0) * (x1 - x0)


def loss_at(curve: Sequence[Point], compute: float) -> float | None:
    """The hull's loss at a compute; None outside of it."""
    for (left, above), (right, below) in pairwise(curve):
        if left <= compute <= right * (1 + 1e-9):
            share = math.log(compute / left) / math.log(right / left)
            return above + share * (below - above)
    return None


def compute_at(curve: Sequence[Point], loss: float) -> Bound:
    """The compute at which the hull has a loss; where it never has, the side on which that compute lies."""
    if loss > curve[0][1]:
        return Bound(curve[0][0], "≤")
    for (left, above), (right, below) in pairwise(curve):
        if below <= loss <= above:
            share = (above - loss) / (above - below)
            return Bound(left * (right / left) ** share)
    return Bound(curve[-1][0], "≥")


def saving(curve: Sequence[Point], compute: float, loss: float) -> Bound:
    """Share of the hull's compute to a loss that a run with `compute` at this loss did without."""
    needed = compute_at(curve, loss)
    return Bound(1 - compute / needed.value, needed.sign)


def slope(points: Sequence[Point]) -> float:
    """The slope d log loss / d log compute, by least squares."""
    x, y = ([math.log(point[axis]) for point in points] for axis in (0, 1))
    middle, level = statistics.fmean(x), statistics.fmean(y)
    above = sum((a - middle) * (b - level) for a, b in zip(x, y, strict=True))
    return above / sum((a - middle) ** 2 for a in x)
