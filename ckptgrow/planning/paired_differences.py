"""Differences of losses over the same sequences, with bootstrap intervals.

Losses of two models on one sequence have most of their spread in common, so that their difference is known far better
than either of them. Sequences are drawn again with replacement, and the interval is of 95 % of the means.

Source: Efron, "Better Bootstrap Confidence Intervals", JASA 82, 1987 (BCa), as scipy.stats.bootstrap has it.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ckptgrow.errors import needs

Vector = npt.NDArray[np.float64]
RESAMPLES = 2000
CONFIDENCE = 0.95
NO_DIFFERENCE = "no difference seen"  # what is said where an interval holds zero
NORMAL_95 = 1.959964  # standard errors on either side of 95 %


@dataclass(frozen=True)
class Interval95:
    """A mean difference in nats, and the interval that holds it in 95 % of samples."""

    mean: float
    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        """Whether the two are level."""
        return self.low <= 0 <= self.high

    def widened(self, error: float) -> Interval95:
        """With an independent standard error more."""
        below, above = (math.hypot(one, NORMAL_95 * error) for one in (self.mean - self.low, self.high - self.mean))
        return Interval95(self.mean, self.mean - below, self.mean + above)


def mean_difference(one: Vector, other: Vector, seed: int) -> Interval95:
    """The mean of `one` less `other`, sequence by sequence; both of shape (sequences,), in nats.

    Raises MissingDependencyError where scipy is not installed.
    """
    with needs("probe", "train,plan"):
        from scipy.stats import bootstrap
    difference = one - other
    mean = float(difference.mean())
    if len(difference) < 2 or np.ptp(difference) == 0:
        return Interval95(mean, mean, mean)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of samples so even that BCa has no acceleration
        found = bootstrap(
            (difference,),
            np.mean,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            rng=np.random.default_rng(seed),
        ).confidence_interval
    low, high = float(found.low), float(found.high)
    if not (math.isfinite(low) and math.isfinite(high)):
        error = NORMAL_95 * float(difference.std(ddof=1)) / math.sqrt(len(difference))
        low, high = mean - error, mean + error
    return Interval95(mean, low, high)
