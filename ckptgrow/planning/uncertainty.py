"""How much the growth point depends on the noise of evaluations and on the window of smoothing.

The rule takes the first evaluation past τ, so that a curve with more noise passes it earlier. A running mean keeps some
noise, and residuals around it would add to that and move every answer. So the centre here is a wide local quadratic of
log L over log C, whose own noise is small compared with that of one evaluation. Residuals are drawn in blocks, which
keeps their correlation, and have the scale of their neighbourhood. Each resampled pair of curves passes through the
whole rule.

Source: Cleveland and Devlin, "Locally Weighted Regression", JASA 83, 1988; Künsch, "The Jackknife and the Bootstrap for
General Stationary Observations", Annals of Statistics 17, 1989.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ckptgrow.planning.learning_curves import Curve, smooth

Vector = npt.NDArray[np.float64]
RESAMPLES = 400
WINDOWS = (4, 5, 6, 7)  # evaluations, around the rule's 5
BANDWIDTH = 0.25  # of log C, on either side
NEIGHBOURS = 8  # evaluations that the local quadratic sees at least
BLOCK = 10  # evaluations, fewer of short curves
SCALE_WINDOW = 51  # evaluations over which residuals have one scale
QUANTILES = (0.05, 0.95)
Interval = tuple[float, float]
Answer = tuple[float, int, int]  # share saved, steps before growth and to optimality


@dataclass(frozen=True)
class Spread:
    """Intervals with 90 % of resamples, of the saving and of the rule's steps.

    The share of resamples without a point.
    """

    saving: Interval
    step_before: Interval
    step_optimality: Interval
    share_without: float


def spread(small: Curve, large: Curve, rule: Callable[[Curve, Curve, int], Answer | None]) -> Spread:
    """Applies the rule to resampled curves, with each size of window in turn."""
    generator = np.random.default_rng(0)
    noises = [(curve, *centre_and_scaled_residuals(curve)) for curve in (small, large)]
    found: list[Answer] = []
    for number in range(RESAMPLES):
        pair = [resampled(*noise, generator) for noise in noises]
        answer = rule(pair[0], pair[1], WINDOWS[number % len(WINDOWS)])
        if answer is not None:
            found.append(answer)
    if not found:
        return Spread(*[(float("nan"), float("nan"))] * 3, share_without=1.0)
    low, high = np.quantile(np.array(found), QUANTILES, axis=0)
    intervals = [(float(one), float(other)) for one, other in zip(low, high, strict=True)]
    return Spread(intervals[0], intervals[1], intervals[2], 1 - len(found) / RESAMPLES)


def centre_and_scaled_residuals(curve: Curve) -> tuple[Vector, Vector, Vector]:
    """A smooth curve through log L, the residuals in units of their local scale, and this scale.

    Shapes (evaluations,).
    """
    log_losses = np.log(curve.losses)
    centre = local_quadratic(np.log(curve.compute), log_losses)[0]
    residuals = log_losses - centre
    window = min(SCALE_WINDOW, 2 * (len(residuals) // 4) + 1)
    scale = np.sqrt(smooth(residuals**2, window)) + 1e-15  # exact curves have no residuals at all
    return centre, residuals / scale, scale


def local_quadratic(x: Vector, y: Vector, bandwidth: float = BANDWIDTH) -> tuple[Vector, Vector, Vector]:
    """The values and slopes at each point of quadratics that are fitted around it with tricube weights.

    The third vector is the slope's variance in units of one evaluation's variance; all have shape (evaluations,).
    """
    rows = [_quadratic_at(x, y, place, bandwidth) for place in x]
    return (
        np.array([one[0] for one in rows]),
        np.array([one[1] for one in rows]),
        np.array([one[2] for one in rows]),
    )


def _quadratic_at(x: Vector, y: Vector, place: float, bandwidth: float) -> tuple[float, float, float]:
    distance = np.abs(x - place)
    reach = max(bandwidth, 1.001 * float(np.partition(distance, NEIGHBOURS - 1)[NEIGHBOURS - 1]))
    near = distance < reach
    offset = (x[near] - place) / reach
    weights = (1 - np.abs(offset) ** 3) ** 3
    powers = np.stack([np.ones_like(offset), offset, offset**2], axis=1)
    solver = np.linalg.pinv(powers * np.sqrt(weights)[:, None]) * np.sqrt(weights)
    values = solver @ y[near]
    return float(values[0]), float(values[1] / reach), float((solver[1] ** 2).sum() / reach**2)


def resampled(curve: Curve, centre: Vector, residuals: Vector, scale: Vector, generator: np.random.Generator) -> Curve:
    """The curve with its residuals drawn again in blocks, at the scale that they have nearby."""
    num = len(centre)
    picked = in_blocks(num, max(1, min(BLOCK, num // 5)), generator)
    return curve.with_losses(np.exp(centre + residuals[picked] * scale))


def in_blocks(num: int, block: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """As many of `num` places, drawn in blocks of neighbours; behind the last comes the first."""
    starts = generator.integers(0, num, -(-num // block))
    return ((starts[:, None] + np.arange(block)) % num).ravel()[:num]
