"""How long a grown model takes until it is level with the same model from scratch at equal steps: the mixing time.

Measured on a pilot, a short pair of runs of any size: for a constant rate the time hardly depends on what was grown.

Source: arXiv 2511.04981 for the notion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ckptgrow.errors import DataError
from ckptgrow.planning.learning_curves import Curve, smooth
from ckptgrow.planning.uncertainty import QUANTILES, centre_and_scaled_residuals, resampled

Vector = npt.NDArray[np.float64]
RESAMPLES = 200
WINDOW = 3  # evaluations over which a difference is averaged
FEWEST = 5  # evaluations of the grown run where both have some


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Steps from growth until the loss stays within `tolerance` (a share) of that from scratch; 90 % of resamples lie
    in `interval`, and a share of them, `share_without`, never came there.
    """

    steps: float
    interval: tuple[float, float]
    share_without: float
    tolerance: float


def mixing_time(grown: Curve, scratch: Curve, tolerance: float, seed: int = 0) -> Mixing:
    """The mixing time of a pilot; the grown run counts its steps on from those of the small one.

    Raises DataError for runs without common steps, and where the grown one never is level.
    """
    found = _level_after(grown, scratch, tolerance)
    if found is None:
        raise DataError(
            f"{grown.where}: never stays within {tolerance:.2%} of {scratch.where}, expected a longer pilot, or a "
            "larger ⟦tolerance⟧"
        )
    generator = np.random.default_rng(seed)
    noises = [(one, *centre_and_scaled_residuals(one)) for one in (grown, scratch)]
    times = [
        _level_after(resampled(*noises[0], generator), resampled(*noises[1], generator), tolerance)
        for _ in range(RESAMPLES)
    ]
    known = [one for one in times if one is not None]
    low, high = np.quantile(known, QUANTILES) if known else (found, found)
    return Mixing(
        steps=found,
        interval=(float(low), float(high)),
        share_without=1 - len(known) / RESAMPLES,
        tolerance=tolerance,
    )


def _level_after(grown: Curve, scratch: Curve, tolerance: float) -> float | None:
    """Steps from the first evaluation of the grown run to the first from which on it is level."""
    common = (grown.steps >= scratch.steps[0]) & (grown.steps <= scratch.steps[-1])
    if common.sum() < FEWEST:
        raise DataError(
            f"{grown.where}: has {common.sum()} evaluations at steps that {scratch.where} has too, expected at least "
            f"{FEWEST}; both count steps since the beginning of the small model"
        )
    steps = grown.steps[common]
    there = np.interp(np.log(steps), np.log(scratch.steps), np.log(scratch.losses))
    behind = smooth(np.log(grown.losses[common]) - there, WINDOW)
    above = np.flatnonzero(behind > tolerance)
    first = 0 if len(above) == 0 else int(above[-1]) + 1
    return None if first >= len(steps) else float(steps[first] - grown.steps[0])
