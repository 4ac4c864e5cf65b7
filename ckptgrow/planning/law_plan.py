"""Plans a staged training by a scaling law: the operators, sizes and steps with the least compute for a target."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ckptgrow.errors import RequestError
from ckptgrow.planning.laws import Law, cost, unit_cost
from ckptgrow.planning.operators import Constants, GrowthStep, constants
from ckptgrow.planning.optimal_stages import best_schedule
from ckptgrow.planning.staging import Problem, StagedLosses, check_feasible, growth_bounds

MOST_SEQUENCES = 500  # of growths; each takes some hundredths of a second


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One model of a plan: parameters without embeddings, losses in nats, batch in tokens, compute in FLOPs."""

    params: float
    growth: GrowthStep | None  # how it comes from the stage before; None for the first, and for growths of any ratio
    loss_before: float | None
    loss: float
    batch_tokens: float
    restart_step: int
    steps: int
    rho: float | None
    compute: float
    learning_rate: float

    @property
    def tokens(self) -> float:
        """The number of tokens on which it is trained."""
        return self.steps * self.batch_tokens

    @property
    def last_step(self) -> int:
        """The step at which it ends, counted as its own training from scratch would."""
        return self.restart_step + self.steps


@dataclass(frozen=True, kw_only=True)
class LawPlan:
    """The stages of a plan, with their compute in FLOPs.

    `alone`: one model from scratch. `compute_same_size`: of stages that all have the last one's size; these save
    compute too where each stage has its critical batch size, because early stages then have smaller batches.
    """

    law: Law
    unit: float | None  # as `laws.unit_cost` gives it
    stages: tuple[Stage, ...]
    constants: tuple[Constants, ...]
    compute: float
    alone: StagedLosses
    compute_same_size: float

    @property
    def compute_alone(self) -> float:
        """The compute of one model from scratch: the last stage's, or the best one if no size is asked for."""
        return self.alone.compute

    @property
    def saving(self) -> float:
        """The saved share of the compute of one model from scratch."""
        return 1 - self.compute / self.compute_alone

    @property
    def saving_of_batches(self) -> float:
        """The share of that compute that smaller batches alone would save."""
        return 1 - self.compute_same_size / self.compute_alone

    def with_rates(self, learning_rate: Callable[[float], float]) -> LawPlan:
        """The same plan with peak learning rates by another rule, a function of the number of parameters."""
        return replace(self, stages=tuple(replace(one, learning_rate=learning_rate(one.params)) for one in self.stages))


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a plan must reach: a number of parameters (None: the best one), a loss (None: the best for that number).

    `growths`: the choices for each growth between stages; with `any_ratio`, any ratio of parameters within its bounds.
    """

    params: float | None
    loss: float | None
    num_stages: int
    growths: tuple[GrowthStep, ...]
    any_ratio: tuple[float, float] | None = None


def law_plan(law: Law, target: Target, batch: float | None, learning_rate: Callable[[float], float]) -> LawPlan:
    """The plan with the least compute; `batch` in tokens, None for each stage's critical batch size.

    Raises RequestError for targets that cannot be reached, and for too many sequences of growths.
    """
    loss = _target_loss(law, target)
    unit = unit_cost(law, batch, loss)
    whole = Problem(law=law, loss=loss, size=target.params, growths=(), unit=unit)
    check_feasible(whole)
    schedule, sequence = _best(law, target, loss, unit)
    size = schedule.sizes[-1]
    same = best_schedule(
        Problem(
            law=law, loss=loss, size=target.params, growths=growth_bounds([1.0] * (target.num_stages - 1)), unit=unit
        )
    )
    known = tuple(constants(law, one, size, unit) for one in target.growths)
    stages = _stages(law, schedule, sequence, batch, learning_rate)
    return LawPlan(
        law=law,
        unit=unit,
        stages=stages,
        constants=known,
        compute=schedule.compute,
        alone=best_schedule(whole),
        compute_same_size=same.compute,
    )


def _target_loss(law: Law, target: Target) -> float:
    if target.loss is not None:
        return target.loss
    if target.params is None:
        raise RequestError("plan law: expected ⟦target_params N⟧, ⟦target_loss⟧ L or both")
    return float(law.efficient_loss(target.params))


def _best(
    law: Law, target: Target, loss: float, unit: float | None
) -> tuple[StagedLosses, Sequence[GrowthStep | None]]:
    steps = target.num_stages - 1
    if target.any_ratio is not None:
        low, high = (math.log(one) for one in target.any_ratio)
        return best_schedule(
            Problem(law=law, loss=loss, size=target.params, growths=((low, high),) * steps, unit=unit)
        ), [None] * steps
    if len(target.growths) ** steps > MOST_SEQUENCES:
        raise RequestError(
            f"⟦stages {target.num_stages}⟧: {len(target.growths)} growths at each of {steps} places are "
            f"{len(target.growths) ** steps:,} sequences, expected at most {MOST_SEQUENCES}; name fewer ⟦operators⟧ or "
            "a smaller ⟦max_factor⟧"
        )
    found: list[tuple[StagedLosses, Sequence[GrowthStep | None]]] = [
        (
            best_schedule(
                Problem(
                    law=law,
                    loss=loss,
                    size=target.params,
                    growths=growth_bounds([one.ratio for one in each]),
                    unit=unit,
                )
            ),
            each,
        )
        for each in itertools.product(target.growths, repeat=steps)
    ]
    return min(found, key=lambda one: one[0].compute)


def _stages(
    law: Law,
    schedule: StagedLosses,
    sequence: Sequence[GrowthStep | None],
    batch: float | None,
    learning_rate: Callable[[float], float],
) -> tuple[Stage, ...]:
    unit = unit_cost(law, batch, schedule.losses[-1])
    stages: list[Stage] = []
    befores = [None, *schedule.losses[:-1]]
    earlier = [None, *schedule.sizes[:-1]]
    rows = zip(
        schedule.sizes, schedule.losses, befores, earlier, [None, *sequence], schedule.stage_compute, strict=True
    )
    for size, loss, before, smaller, growth, compute in rows:
        tokens = float(law.critical_batch(loss)) if batch is None else batch
        per_unit = float(cost(law, loss, unit)) / tokens  # steps a unit of u
        restart = 0 if before is None else per_unit * float(law.data(size, before))
        rho = None if before is None or smaller is None else float(law.data(smaller, before) / law.data(size, before))
        stages.append(
            Stage(
                params=size,
                growth=growth,
                loss_before=before,
                loss=loss,
                batch_tokens=tokens,
                restart_step=round(restart),
                steps=round(per_unit * float(law.data(size, loss)) - restart),
                rho=rho,
                compute=compute,
                learning_rate=learning_rate(size),
            )
        )
    return tuple(stages)
