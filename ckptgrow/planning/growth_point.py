"""From two curves: where to grow the small model, where the large one goes on, and how much compute that saves.

The small model is trained until its slope rises past τ of the operator; the grown one goes on at the step at which the
large model, from scratch, has the same loss; it is trained until its slope rises past τ of optimality. The saving is
the compute that the large model alone would have spent up to that loss, less the small one's, as a share of the
compute of the large model's whole run to optimality.

Source: Shen et al., "Staged Training for Transformer Language Models", arXiv 2203.06211, section 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ckptgrow.errors import DataError
from ckptgrow.planning.curves import WINDOW, Curve, smooth

OperatorName = Literal["width", "depth", "both"]
THRESHOLDS: Mapping[str, float] = {"depth": -0.0575, "width": -0.0475, "both": -0.03}
OPTIMALITY = -0.052
RESAMPLES = 400
WINDOWS = (3, 5, 7, 9)  # over which the uncertainty is taken


@dataclass(frozen=True)
class GrowthPoint:
    """Steps in optimizer steps, losses in nats, saving as a share of compute."""

    operator: str
    saving: float
    saving_interval: tuple[float, float]  # 90 % of bootstrap resamples, over smoothing windows too
    step_before: int
    step_target: int
    step_optimality: int
    rho: float
    loss_at_growth: float

    @property
    def is_distinguishable(self) -> bool:
        """Whether the saving's interval leaves out zero."""
        return self.saving_interval[0] > 0


def growth_point(small: Curve, large: Curve, operator: OperatorName, threshold: float | None = None) -> GrowthPoint:
    """The plan that two curves give.

    Raises DataError where a slope never rises past its threshold, or the curves do not meet.
    """
    tau = THRESHOLDS[operator] if threshold is None else threshold
    before, optimal = _required(small, tau), _required(large, OPTIMALITY)
    loss = float(small.losses[before])
    if loss < large.losses.min():
        raise DataError(
            f"{large.where}: never reaches loss {loss:.4g} of {small.where} at its growth point; are the two models in "
            "the right order, small first?"
        )
    target = int(np.argmin(np.abs(large.losses - loss)))
    saving = float((large.compute[target] - small.compute[before]) / large.compute[optimal])
    return GrowthPoint(
        operator,
        saving,
        _interval(small, large, tau),
        int(small.steps[before]),
        int(large.steps[target]),
        int(large.steps[optimal]),
        float(small.steps[before] / large.steps[target]),
        loss,
    )


def _required(curve: Curve, threshold: float) -> int:
    index = curve.index_where_slope_rises_past(threshold)
    if index is None:
        raise DataError(f"{curve.where}: its slope never rises past {threshold}, expected a longer run")
    return index


def _interval(small: Curve, large: Curve, tau: float) -> tuple[float, float]:
    """5 % to 95 % of resamples of the residuals around the smoothed curves, over windows of smoothing."""
    generator = np.random.default_rng(0)
    savings: list[float] = []
    for number in range(RESAMPLES):
        window = WINDOWS[number % len(WINDOWS)]
        saving = _saving(_resampled(small, generator), _resampled(large, generator), tau, window)
        if saving is not None:
            savings.append(saving)
    if not savings:
        return float("nan"), float("nan")
    low, high = np.quantile(savings, [0.05, 0.95])
    return float(low), float(high)


def _resampled(curve: Curve, generator: np.random.Generator) -> Curve:
    """The wild bootstrap (Wu, Annals of Statistics 14, 1986): each residual keeps its place and gets a random sign."""
    course = smooth(np.log(curve.losses), WINDOW)
    residuals = np.log(curve.losses) - course
    signs = generator.choice([-1.0, 1.0], len(course))
    return Curve(curve.where, curve.steps, np.exp(course + signs * residuals), curve.compute)


def _saving(small: Curve, large: Curve, tau: float, window: int) -> float | None:
    before, optimal = (
        small.index_where_slope_rises_past(tau, window),
        large.index_where_slope_rises_past(OPTIMALITY, window),
    )
    if before is None or optimal is None:
        return None
    target = int(np.argmin(np.abs(large.losses - small.losses[before])))
    return float((large.compute[target] - small.compute[before]) / large.compute[optimal])
