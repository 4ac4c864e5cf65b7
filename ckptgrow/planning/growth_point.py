"""From two curves: where to grow the small model, where the large one goes on, and how much compute that saves.

The small model is trained until its slope rises past τ of the operator; the grown one goes on at the step at which the
large model, from scratch, has the same loss; it is trained until its slope rises past τ of optimality. The saving is
the compute that the large model alone would have spent up to that loss, less the small one's, as a share of the
compute of the large model's whole run to optimality.

Source: Shen et al., "Staged Training for Transformer Language Models", arXiv 2203.06211, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ckptgrow.choices import OperatorName
from ckptgrow.errors import DataError
from ckptgrow.planning.learning_curves import Curve
from ckptgrow.planning.operators import OPTIMALITY, THRESHOLDS
from ckptgrow.planning.uncertainty import Answer, Spread, spread

MOST_WITHOUT = 0.1  # share of resamples in which a plan that can be trusted may find no point


@dataclass(frozen=True, kw_only=True)
class GrowthPoint:
    """Steps in optimizer steps, losses in nats, saving as a share of compute, its spread over resamples."""

    operator: str
    threshold: float
    saving: float
    step_before: int
    step_target: int
    step_optimality: int
    rho: float
    loss_at_growth: float
    spread: Spread

    @property
    def is_distinguishable(self) -> bool:
        """Whether the saving is above zero in at least 95 % of resamples, and nearly all of them have a point."""
        return self.spread.saving[0] > 0 and self.spread.share_without <= MOST_WITHOUT


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
    if loss > large.losses.max():
        raise DataError(
            f"{large.where}: begins below loss {loss:.4g} of {small.where} at its growth point, expected an earlier "
            "first evaluation"
        )
    target = int(np.argmin(np.abs(large.losses - loss)))
    saving = float((large.compute[target] - small.compute[before]) / large.compute[optimal])
    return GrowthPoint(
        operator=operator,
        threshold=tau,
        saving=saving,
        step_before=int(small.steps[before]),
        step_target=int(large.steps[target]),
        step_optimality=int(large.steps[optimal]),
        rho=float(small.steps[before] / large.steps[target]),
        loss_at_growth=loss,
        spread=spread(small, large, lambda one, other, window: _answer(one, other, tau, window)),
    )


def _required(curve: Curve, threshold: float) -> int:
    index = curve.index_where_slope_rises_past(threshold)
    if index is None:
        raise DataError(f"{curve.where}: its slope never rises past {threshold}, expected a longer run")
    return index


def _answer(small: Curve, large: Curve, tau: float, window: int) -> Answer | None:
    before = small.index_where_slope_rises_past(tau, window)
    optimal = large.index_where_slope_rises_past(OPTIMALITY, window)
    if before is None or optimal is None:
        return None
    target = int(np.argmin(np.abs(large.losses - small.losses[before])))
    saving = float((large.compute[target] - small.compute[before]) / large.compute[optimal])
    return saving, int(small.steps[before]), int(large.steps[optimal])
