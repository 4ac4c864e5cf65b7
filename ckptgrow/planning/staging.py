"""The compute of a staged training, from the size of each model and the loss at which it is grown.

Stage k trains N_k parameters from loss L_(k−1) to L_k. Growth keeps the loss, and the grown model goes on as if it had
reached this loss from scratch. With u and the cost c of a unit of u as in a law,

    compute = Σ_k 6·N_k·c(L_k)·(u(N_k, L_k) − u(N_k, L_(k−1))),    u(N_1, L_0) = 0.

Source: Shen et al., "Staged Training for Transformer Language Models", arXiv 2203.06211, section 3 and its code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ckptgrow.errors import RequestError
from ckptgrow.planning.laws import Law, cost, cost_by_loss

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A staged training that must reach a loss with the least compute.

    `size`: the last model's parameters, None for the best number; `growths`: bounds of log(N_(k+1)/N_k), one pair for
    each growth, equal where it is fixed.
    """

    law: Law
    loss: float
    size: float | None
    growths: tuple[tuple[float, float], ...]
    unit: float | None  # tokens for a unit of u; None: at the critical batch of each stage's end

    @property
    def num_stages(self) -> int:
        """The number of stages, one more than growths."""
        return len(self.growths) + 1


@dataclass(frozen=True)
class StagedLosses:
    """The parameters of each stage, the loss at its end in nats, and its compute in FLOPs."""

    sizes: tuple[float, ...]
    losses: tuple[float, ...]
    stage_compute: tuple[float, ...]

    @property
    def compute(self) -> float:
        """The compute of all stages in FLOPs."""
        return sum(self.stage_compute)


def stage_compute(problem: Problem, log_sizes: Vector, losses: Vector) -> Vector:
    """The compute of each stage in FLOPs, shape (stages,)."""
    sizes = np.exp(log_sizes)
    done = problem.law.data(sizes, losses)
    before = np.concatenate([np.zeros(1), problem.law.data(sizes[1:], losses[:-1])])
    return 6.0 * sizes * cost(problem.law, losses, problem.unit) * (done - before)


def compute_gradient(problem: Problem, log_sizes: Vector, losses: Vector) -> tuple[Vector, Vector]:
    """The derivatives of the total compute by every log N_k and by every L_k, shapes (stages,)."""
    law, sizes = problem.law, np.exp(log_sizes)
    price, price_slope = cost(law, losses, problem.unit), cost_by_loss(law, losses, problem.unit)
    done, starts = law.data(sizes, losses), losses[:-1]
    before = np.concatenate([np.zeros(1), law.data(sizes[1:], starts)])
    before_by_size = np.concatenate([np.zeros(1), law.data_by_log_size(sizes[1:], starts)])
    scale = 6.0 * sizes * price
    by_log_size = scale * (done - before) + scale * (law.data_by_log_size(sizes, losses) - before_by_size)
    by_loss = 6.0 * sizes * price_slope * (done - before) + scale * law.data_by_loss(sizes, losses)
    by_loss[:-1] -= scale[1:] * law.data_by_loss(sizes[1:], starts)
    return by_log_size, by_loss


def check_feasible(problem: Problem) -> None:
    """Raises RequestError where no model, or not one of the asked size, can reach the loss."""
    law, least = problem.law, problem.law.smallest_size(problem.loss)
    if not np.isfinite(least):
        raise RequestError(
            f"⟦target_loss {problem.loss:g}⟧: no model reaches it by the law {law.name}, expected more than "
            f"{law.floor:g}"
        )
    if problem.size is not None and problem.size <= least:
        best = float(law.limit(problem.size))
        raise RequestError(
            f"⟦target_loss {problem.loss:g}⟧: {problem.size:.4g} parameters come to {best:.4g} at best by the law "
            f"{law.name}, expected more than {least:.4g} parameters or a higher loss"
        )


def growth_bounds(ratios: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Bounds that fix growths to some ratios of parameters."""
    return tuple((math.log(ratio), math.log(ratio)) for ratio in ratios)
