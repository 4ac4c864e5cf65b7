"""Who is ahead: losses that candidates are heading for, and their paired differences.

Behind the first steps held-out losses follow L(t) = E + A · t^−c closely, with one exponent c for all candidates of a
probe. From the losses at t/4, t/2 and t then

    2^c = Σ (L(t/4) − L(t/2)) / Σ (L(t/2) − L(t))      over all candidates
    L(T) = L(t) − w · (L(t/2) − L(t)),   w = (1 − (T/t)^−c) / (2^c − 1)

which is the same combination of losses on every sequence, so that candidates are compared sequence by sequence, at the
steps T = 8 t that they are heading for. Three things make a difference unsure, and all of them widen its interval:

- the sequences, which are drawn again (`planning.paired_differences`)
- the weights' wandering from step to step: each loss above is a mean of several measurements in a row, whose scatter,
  common to none of the candidates, is that of differences between neighbours (von Neumann, "Distribution of the Ratio
  of the Mean Square Successive Difference to the Variance", Annals of Mathematical Statistics 12, 1941)
- the draws of a recipe (seeds), where there are several: they are averaged, and their spread is pooled over candidates
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ckptgrow.planning.paired_differences import Interval95, mean_difference

Vector = npt.NDArray[np.float64]
Measured = Mapping[int, Vector]  # held-out losses a sequence, by steps
Groups = Sequence[Sequence[int]]  # steps that are averaged; the groups' own steps rise by doubling
AHEAD = 8.0  # T/t
LEAST_EXPONENT, MOST_EXPONENT = 0.05, 1.0  # what learning curves have


@dataclass(frozen=True, kw_only=True)
class Place:
    """A candidate among the others: its loss now (the mean of its last measurements) and where it is heading for, nats;
    the difference of the latter to the best one's, and d loss / d log step.
    """

    name: str
    loss: float
    heading_for: float
    behind: Interval95
    slope: float


def ranked(runs: Mapping[str, Sequence[Measured]], groups: Groups, seed: int) -> list[Place]:
    """The candidates, best first; `runs` are each one's draws, `groups` the steps of their newest measurements."""
    weight = _weight(runs, groups)
    headings = {name: [_heading(one, groups, weight) for one in draws] for name, draws in runs.items()}
    means = {name: np.mean(draws, axis=0) for name, draws in headings.items()}
    order = sorted(means, key=lambda name: float(means[name].mean()))
    wandering, between = _wandering(runs, groups, weight), _between_draws(headings)
    best, places = order[0], list[Place]()
    for name in order:
        difference = mean_difference(means[name], means[best], seed)
        if name != best:
            nums = [len(headings[one]) for one in (name, best)]
            drawn = between**2 * sum(1 / num for num in nums if num > 1)
            difference = difference.widened(math.sqrt(wandering**2 * sum(1 / num for num in nums) + drawn))
        places.append(
            Place(
                name=name,
                loss=float(np.mean([_level(one, groups[-1]).mean() for one in runs[name]])),
                heading_for=float(means[name].mean()),
                behind=difference,
                slope=float(np.mean([_slope(one, groups) for one in runs[name]])),
            )
        )
    return places


def _level(measured: Measured, group: Sequence[int]) -> Vector:
    return np.mean([measured[step] for step in group], axis=0)


def _weight(runs: Mapping[str, Sequence[Measured]], groups: Groups) -> float:
    """w: how many times what the last doubling brought is still to come; 0 where the losses do not fall."""
    if len(groups) < 3:
        return 0.0
    draws = [one for several in runs.values() for one in several]
    levels = [[float(_level(one, group).mean()) for group in groups[-3:]] for one in draws]
    before, now = (sum(one[place] - one[place + 1] for one in levels) for place in (0, 1))
    if now <= 0:
        return 0.0
    exponent = math.log2(before / now) if before > 0 else LEAST_EXPONENT
    exponent = min(MOST_EXPONENT, max(LEAST_EXPONENT, exponent))
    return float((1 - AHEAD**-exponent) / (2**exponent - 1))


def _heading(measured: Measured, groups: Groups, weight: float) -> Vector:
    now = _level(measured, groups[-1])
    return now if weight == 0 else now - weight * (_level(measured, groups[-2]) - now)


def _slope(measured: Measured, groups: Groups) -> float:
    if len(groups) < 2:
        return math.nan
    fallen = float((_level(measured, groups[-1]) - _level(measured, groups[-2])).mean())
    return fallen / math.log(groups[-1][-1] / groups[-2][-1])


def _wandering(runs: Mapping[str, Sequence[Measured]], groups: Groups, weight: float) -> float:
    """The standard error of one draw's heading by its wandering, nats; 0 where nothing tells it."""
    squares: list[float] = []
    for group in groups[-2:]:
        losses = [[float(one[step].mean()) for step in group] for several in runs.values() for one in several]
        if len(losses) > 1:
            apart = np.array(losses) - np.mean(losses, axis=0)
            share = 1 - 1 / len(losses)  # of the scatter that the mean over candidates leaves
            squares += [float((other - one) ** 2) / 2 / share for row in apart for one, other in pairwise(row)]
    if not squares:
        return 0.0
    once = float(np.mean(squares))
    before = 0.0 if len(groups) < 2 else weight**2 / len(groups[-2])
    return math.sqrt(once * ((1 + weight) ** 2 / len(groups[-1]) + before))


def _between_draws(headings: Mapping[str, Sequence[Vector]]) -> float:
    """The standard deviation between draws of a recipe, nats, pooled over all that have several."""
    variances = [np.var([one.mean() for one in draws], ddof=1) for draws in headings.values() if len(draws) > 1]
    return math.sqrt(float(np.mean(variances))) if variances else 0.0
