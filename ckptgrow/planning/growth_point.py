"""Finds from two curves where to grow the small model, where the grown one goes on, and how much compute is saved.

The small model is trained until its slope passes the operator's τ. The grown model goes on at the step at which the
large model, trained from scratch, has the same loss, and is trained until its slope passes the τ of optimality. The
saving is the compute of the large model up to this loss, minus that of the small one, as a share of the compute of the
large model's whole run to optimality.

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
    """A plan from two curves: steps in optimizer steps, the loss in nats, the saving as a share of compute.

    `rho`: steps before growth over steps after it; `spread`: how the results differ over resamples.
    """

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

    @property
    def is_told_from_zero(self) -> bool:
        """The same of either sign: whether growth is seen to save, or to cost."""
        return self.is_distinguishable or (self.spread.saving[1] < 0 and self.spread.share_without <= MOST_WITHOUT)


def growth_point(small: Curve, large: Curve, operator: OperatorName, threshold: float | None = None) -> GrowthPoint:
    """The plan from two curves.

    Raises DataError where a slope never passes its threshold, or the curves do not meet.
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
