"""The learning curves that a plan from a law expects: loss against the compute spent so far."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ckptgrow.planning.law_plan import LawPlan
from ckptgrow.planning.laws import cost

Vector = npt.NDArray[np.float64]
POINTS = 200  # of a curve
HIGHEST = 2.0  # curves begin at this multiple of the final loss


@dataclass(frozen=True, eq=False)
class ExpectedCurve:
    """Compute in FLOPs since the plan began, losses in nats; vectors of the same length."""

    params: float
    compute: Vector
    losses: Vector


def courses(plan: LawPlan) -> tuple[ExpectedCurve, ...]:
    """The expected curve of each stage."""
    found: list[ExpectedCurve] = []
    spent = 0.0
    for stage in plan.stages:
        begin = HIGHEST * plan.stages[-1].loss if stage.loss_before is None else stage.loss_before
        found.append(_course(plan, stage.params, (begin, stage.loss), stage.loss_before, spent))
        spent += stage.compute
    return tuple(found)


def course_alone(plan: LawPlan) -> ExpectedCurve:
    """The expected curve of the last model, trained from scratch."""
    last = plan.stages[-1]
    return _course(plan, plan.alone.sizes[-1], (HIGHEST * last.loss, last.loss), None, 0.0)


def _course(plan: LawPlan, size: float, ends: tuple[float, float], before: float | None, spent: float) -> ExpectedCurve:
    losses = np.geomspace(*ends, POINTS)
    skipped = 0.0 if before is None else float(plan.law.data(size, before))
    per_unit = 6.0 * size * float(cost(plan.law, ends[1], plan.unit))
    return ExpectedCurve(size, spent + per_unit * (plan.law.data(size, losses) - skipped), losses)
