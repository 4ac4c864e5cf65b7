"""Learning curves: cleaned of spikes, with their slope in log-log."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ckptgrow.errors import DataError
from ckptgrow.planning.logs import Log, read_log

Vector = npt.NDArray[np.float64]
SPIKE = 0.01  # a rise by more than this share over the last kept loss is a spike
WINDOW = 5  # evaluations that the slope's smoothing averages
FEWEST = 10  # evaluations


@dataclass(frozen=True, eq=False)
class Curve:
    """Steps, evaluation losses (nats) and compute C = 6·N·tokens (FLOPs); vectors of the same length."""

    where: str
    steps: Vector
    losses: Vector
    compute: Vector

    def slope(self, window: int = WINDOW) -> Vector:
        """D log L / d log C between neighbouring evaluations, log L smoothed by a mean over `window` of them."""
        smoothed = smooth(np.log10(self.losses), window)
        return np.diff(smoothed) / np.diff(np.log10(self.compute))

    def index_where_slope_rises_past(self, threshold: float, window: int = WINDOW) -> int | None:
        """The first evaluation, after the steepest, at which the slope is above a threshold; None where it never is.

        The last ones are left out, whose window reaches beyond the curve: repeating its end there flattens any curve.

        Source: the rule of Shen et al., arXiv 2203.06211, section 4.
        """
        slope = self.slope(window)[: len(self.steps) - window + window // 2]
        steepest = int(np.argmin(slope))
        above = np.flatnonzero(slope[steepest:] > threshold)
        return None if len(above) == 0 else steepest + int(above[0])

    def with_losses(self, losses: Vector) -> Curve:
        """The same evaluations with other losses."""
        return replace(self, losses=losses)

    def after(self, step: float) -> Curve:
        """Without evaluations before a step; raises DataError where too few are left."""
        kept = self.steps >= step
        if kept.sum() < FEWEST:
            raise DataError(f"{self.where}: has {kept.sum()} evaluations from step {step:g} on, expected {FEWEST}")
        return replace(self, steps=self.steps[kept], losses=self.losses[kept], compute=self.compute[kept])


def smooth(values: Vector, window: int) -> Vector:
    """A centred running mean that repeats the values by reflection at both ends."""
    before, after = window // 2, window - 1 - window // 2
    padded = np.pad(values, (before, after), mode="symmetric")
    return np.convolve(padded, np.full(window, 1 / window), mode="valid")


def curve(path: Path, num_parameters: float, tokens_per_step: float, loss: str | None = None) -> Curve:
    """A curve from a log, without spikes; N are parameters outside embeddings.

    Raises DataError for logs that cannot be used.
    """
    return curve_of(read_log(path, loss), num_parameters, tokens_per_step)


def curve_of(log: Log, num_parameters: float, tokens_per_step: float) -> Curve:
    """The same from a log that has been read."""
    steps, losses = _without_spikes(*_checked(log))
    compute = 6.0 * num_parameters * tokens_per_step * steps
    return Curve(log.where, steps, losses, compute)


def _checked(log: Log) -> tuple[Vector, Vector]:
    steps, losses = log.steps, log.losses
    if len(steps) < FEWEST:
        raise DataError(f"{log.where}: has {len(steps)} evaluations, expected at least {FEWEST}")
    if not bool((np.diff(steps) > 0).all()):
        place = int(np.flatnonzero(~(np.diff(steps) > 0))[0]) + 1
        raise DataError(f"{log.where}: step {steps[place]:g} follows {steps[place - 1]:g}, expected increasing steps")
    bad = [index for index, loss in enumerate(losses) if not math.isfinite(loss) or loss <= 0]
    if bad:
        raise DataError(
            f"{log.where}: the loss at step {steps[bad[0]]:g} is {losses[bad[0]]}, expected a number above zero"
        )
    positive = steps > 0
    return steps[positive], losses[positive]


def _without_spikes(steps: Vector, losses: Vector) -> tuple[Vector, Vector]:
    kept: list[int] = []
    for index, loss in enumerate(losses):
        if not kept or loss <= losses[kept[-1]] * (1 + SPIKE):
            kept.append(index)
    return steps[kept], losses[kept]
