"""Rules for evaluations that are left out of a learning curve, because the loss jumped there for a moment.

`robust` compares every evaluation with the running median of log L around it, and leaves it out if it is farther away
than `DEVIATIONS` standard deviations of its neighbours (1.4826 · their median absolute deviation). It does so on both
sides, so that symmetric noise of any size keeps its mean. `paper` leaves out every evaluation that is more than 1 %
above the last one that was kept. This is right for smooth curves; of noisy curves only the lowest losses are kept.

Source: Hampel, "The Influence Curve and Its Role in Robust Estimation", JASA 69, 1974, for the median absolute
deviation; the code of Shen et al., arXiv 2203.06211, for the paper's rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from ckptgrow.choices import SpikeRule

Vector = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

SMALLEST = 0.01  # of the loss: what lies nearer to its neighbours is not a spike, however smooth they are
REACH = 10  # evaluations on either side of the running median: a spike is shorter than that
DEVIATIONS = 5.0  # of normal noise 1 evaluation in 2 million lies beyond
NORMAL = 1.4826  # standard deviations of normal noise in its median absolute deviation
SCALE_REACH = 25  # evaluations on either side over which noise has one scale


def kept_by_paper(losses: Vector) -> Mask:
    """Which evaluations the rule `paper` keeps: those at most 1 % above the last one that was kept."""
    kept = np.zeros(len(losses), dtype=bool)
    last = np.inf
    for index, loss in enumerate(losses):
        if loss <= last * (1 + SMALLEST):
            kept[index], last = True, loss
    return kept


def kept_by_neighbours(losses: Vector) -> Mask:
    """Which evaluations the rule `robust` keeps: those no farther from the running median of log L than noise.

    Too high evaluations are left out first, because with them the median is a little high, and good ones seem too low.
    """
    kept = np.ones(len(losses), dtype=bool)
    kept[:], _ = _within_noise(np.log(losses))
    kept[kept] = np.logical_and(*_within_noise(np.log(losses[kept])))
    return kept


def _within_noise(log_losses: Vector) -> tuple[Mask, Mask]:
    """Which evaluations are not too high, and which are not too low.

    Near the beginning, where curves fall steeply, the median is over equally many evaluations on either side. The last
    evaluations are never too low, because they have few behind them while the curve still falls.
    """
    num = len(log_losses)
    reach = min(REACH, max(1, (num - 1) // 4))
    centre = np.array([_median_around(log_losses, place, reach) for place in range(num)])
    residuals = log_losses - centre
    steps = np.abs(np.diff(centre, prepend=centre[0], append=centre[-1]))
    steepness = np.maximum(steps[1:], steps[:-1])  # a spike nearby moves a falling curve's median by about one place
    far = np.maximum(np.log1p(SMALLEST), DEVIATIONS * _scales(residuals)) + steepness
    is_last = np.arange(num) >= num - reach
    return residuals <= far, is_last | (residuals >= -far)


def all_kept(losses: Vector) -> Mask:
    """Which evaluations the rule `none` keeps: all."""
    return np.ones(len(losses), dtype=bool)


RULES: Mapping[SpikeRule, Callable[[Vector], Mask]] = {
    "robust": kept_by_neighbours,
    "paper": kept_by_paper,
    "none": all_kept,
}


def _median_around(values: Vector, place: int, reach: int) -> float:
    before = min(reach, place)
    after = reach if before == reach else before
    return float(np.median(values[place - before : place + after + 1]))


def _scales(residuals: Vector) -> Vector:
    sizes = np.abs(residuals)
    return NORMAL * np.array(
        [np.median(sizes[max(0, place - SCALE_REACH) : place + SCALE_REACH + 1]) for place in range(len(sizes))]
    )
