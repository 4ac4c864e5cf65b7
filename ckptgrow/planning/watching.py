"""A running training: its slope now, how sure that is, and the step at which it will pass τ.

The slope is that of a local quadratic of log L over log C at the last evaluation, with its standard error. C grows in
proportion to the steps, so neither parameters nor tokens are needed. The predicted step comes from the power law
L = E + (s/S)^β that fits the second half of the curve best; its slope −β·(1 − E/L) is known at every step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ckptgrow.errors import needs
from ckptgrow.planning.learning_curves import FEWEST, Curve, curve_of
from ckptgrow.planning.logs import Log
from ckptgrow.planning.uncertainty import local_quadratic

Vector = npt.NDArray[np.float64]
NORMAL_90 = 1.645  # standard errors on either side of 90 %
FARTHEST = 100.0  # steps ahead that a prediction is made for, in units of those trained


@dataclass(frozen=True, kw_only=True)
class Watch:
    """The state of a running training.

    `slope` and `slope_error`: d log L / d log C and its standard error; `crossed_at`: the step at which the rule's
    slope passed τ, if it did; `predicted`: the step at which the power law passes it.
    """

    step: int
    loss: float
    threshold: float
    slope: float
    slope_error: float
    crossed_at: int | None
    predicted: int | None

    @property
    def slope_interval(self) -> tuple[float, float]:
        """The slope's interval of 90 %."""
        return self.slope - NORMAL_90 * self.slope_error, self.slope + NORMAL_90 * self.slope_error

    @property
    def is_time(self) -> bool:
        """Whether to grow: the rule's slope has passed τ, and the slope now does not contradict it."""
        return self.crossed_at is not None and self.slope_interval[1] > self.threshold

    @property
    def is_likely(self) -> bool:
        """Whether it is time, and the slope now is rather above τ than below: what an unwatched run grows by. The rule
        alone takes the first crossing, which among few evaluations is often noise.
        """
        return self.crossed_at is not None and self.slope > self.threshold

    @property
    def is_sure(self) -> bool:
        """Whether the slope's interval is on one side of τ."""
        return not self.slope_interval[0] <= self.threshold <= self.slope_interval[1]


def watch(curve: Curve, threshold: float) -> Watch:
    """What a curve says so far, and the step that a power law predicts."""
    return replace(slope_watch(curve, threshold), predicted=predicted_step(curve, threshold))


def seen(steps: Sequence[int], losses: Sequence[float], threshold: float) -> Watch | None:
    """What evaluations say of a growth at τ; None where they are too few to say anything."""
    if len(steps) < FEWEST or min(steps) < 1:
        return None
    log = Log(where="validation", steps=np.array(steps, dtype=np.float64), losses=np.array(losses, dtype=np.float64))
    curve = curve_of(log, 1.0, 1.0)  # slopes are the same in any unit of compute
    return slope_watch(curve, threshold) if len(curve.steps) >= FEWEST else None


def slope_watch(curve: Curve, threshold: float) -> Watch:
    """What a curve says so far, without a prediction."""
    slopes, errors = slopes_of(curve)
    crossed = curve.index_where_slope_rises_past(threshold)
    return Watch(
        step=int(curve.steps[-1]),
        loss=float(curve.losses[-1]),
        threshold=threshold,
        slope=float(slopes[-1]),
        slope_error=float(errors[-1]),
        crossed_at=None if crossed is None else int(curve.steps[crossed]),
        predicted=None,
    )


def slopes_of(curve: Curve) -> tuple[Vector, Vector]:
    """d log L / d log C at every evaluation, and standard errors by the scatter of the recent ones."""
    x, y = np.log(curve.steps), np.log(curve.losses)
    centre, slopes, variances = local_quadratic(x, y)
    recent = slice(-min(len(x), max(10, len(x) // 4)), None)
    return slopes, np.sqrt(variances * inflated_variance((y - centre)[recent]))


def inflated_variance(residuals: Vector) -> float:
    """The variance of residuals, times (1 + r) / (1 − r) for a correlation r between neighbours.

    Source: Bartlett, "Some Aspects of the Time-Correlation Problem", JRSS 98, 1935.
    """
    variance = float(np.mean(residuals**2))
    if variance == 0:
        return 0.0
    correlation = float(np.mean(residuals[1:] * residuals[:-1])) / variance
    return variance * (1 + min(max(correlation, 0.0), 0.9)) / (1 - min(max(correlation, 0.0), 0.9))


def predicted_step(curve: Curve, threshold: float) -> int | None:
    """The step at which the power law's slope is τ; None where it never is, or only too far ahead."""
    half = curve.steps >= curve.steps[-1] / 2
    if half.sum() < 5:
        return None
    floor, log_scale, exponent = _power_law(curve.steps[half], curve.losses[half])
    if exponent + threshold <= 0:
        return None
    above = -threshold * floor / (exponent + threshold)  # of L − E where the slope is reached
    log_step = log_scale - math.log(above) / exponent
    return None if log_step > math.log(FARTHEST * curve.steps[-1]) else round(math.exp(log_step))


def _power_law(steps: Vector, losses: Vector) -> tuple[float, float, float]:
    """E, log s and β of L = E + (s/S)^β, fitted by least squares on log L."""
    with needs("plan watch", "plan"):
        from scipy.optimize import least_squares
    lowest, middle = float(losses.min()), float(np.log(steps).mean())

    def residuals(theta: Vector) -> Vector:
        floor, log_scale, exponent = theta
        return np.log(floor + np.exp(log_scale - exponent * (np.log(steps) - middle))) - np.log(losses)

    starts = [
        [share * lowest, math.log((1.001 - share) * lowest), exponent]
        for share in (0.3, 0.9)
        for exponent in (0.3, 0.8)
    ]
    bounds = ([1e-3 * lowest, -20.0, 0.05], [0.9999 * lowest, 10.0, 3.0])
    found = [least_squares(residuals, start, bounds=bounds, x_scale=[lowest, 1.0, 0.3]) for start in starts]
    floor, log_scale, exponent = min(found, key=lambda one: one.cost).x
    return float(floor), float(log_scale / exponent + middle), float(exponent)
