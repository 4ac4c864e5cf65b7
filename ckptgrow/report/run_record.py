"""What a run's files say, put together for a report: curves over compute, growths, evaluations, times, commands."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptgrow.errors import DataError, listing
from ckptgrow.recipes.recipe_options import OPERATORS
from ckptgrow.report.last_saved import last_saved
from ckptgrow.run.foreseen import ForeseenStage, foreseen
from ckptgrow.run.staged_plan import PROBE
from ckptgrow.run.staged_run import jobs_of
from ckptgrow.run.standing import JobStanding, Standing, opened_run, standing
from ckptgrow.run.work import Work
from ckptgrow.train.run_directory import CHECKPOINTS, LAST, LastSaved, metrics_rows

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TrainedCurve:
    """A model's training: FLOPs since the run began (6·N·tokens, N without embeddings) and losses in nats, of its
    validations and of its logged steps, and the learning rates at these; `data` is the sha256 of the data, "" where
    nothing says it.
    """

    name: str
    params: int
    flops: Vector
    val_losses: Vector
    step_flops: Vector
    losses: Vector
    rates: Vector
    data: str = ""

    @property
    def spent(self) -> float:
        """FLOPs at its end."""
        return float(max(self.step_flops.max(initial=0.0), self.flops.max(initial=0.0)))


@dataclass(frozen=True)
class RecordedGrowth:
    """A growth: the stage it leads to, what it made, and its verification's result, None where it has none yet."""

    stage: str
    operator: str
    result: Mapping[str, Any]
    verified: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """See the module's head. `expected` are FLOPs and losses at the ends of the stages as the planner foresaw them."""

    out: Path
    standing: Standing
    curves: tuple[TrainedCurve, ...]
    growths: tuple[RecordedGrowth, ...]
    probes: Mapping[str, Mapping[str, Any]]  # what chose a stage's recipe, by the stage's name
    evaluations: Mapping[str, Mapping[str, Any]]
    expected: tuple[tuple[float, float], ...]
    law: str | None
    saving: float | None
    commands: tuple[str, ...]
    scratch: TrainedCurve | None

    @property
    def compared(self) -> tuple[TrainedCurve, ...]:
        """The curves of all models."""
        return self.curves if self.scratch is None else (*self.curves, self.scratch)

    @property
    def jobs(self) -> Sequence[JobStanding]:
        """Of the plan, in their order."""
        return self.standing.jobs


def recorded(out: Path, scratch: Path | None = None) -> RunRecord:
    """A run's directory; `scratch` is the directory of a training of the last model from scratch.

    Raises RequestError where `out` holds no run, DataError where `scratch` holds no training.
    """
    work = opened_run(out)
    expected = foreseen(work)
    return RunRecord(
        out=out,
        standing=standing(work),
        curves=tuple(_curves(work, expected)),
        growths=tuple(_growths(work)),
        probes=_results(work, PROBE),
        evaluations={name: found["results"] for name, found in _results(work, "evaluate").items()},
        expected=_expected(work),
        law=work.plan.law,
        saving=work.plan.saving,
        commands=tuple(shlex.join(line) for job in jobs_of(work.plan) for line in job.words(work)),
        scratch=None if scratch is None else _from_scratch(scratch),
    )


def _from_scratch(directory: Path) -> TrainedCurve:
    if not (directory / CHECKPOINTS / LAST).exists() or not metrics_rows(directory):
        raise DataError(f"{directory}: holds no training, expected the ⟦out⟧ of `ckptgrow train` with a checkpoint")
    saved = last_saved(directory)
    if saved.history:
        raise DataError(f"{directory}: is of a grown model, expected a training from scratch")
    return trained_curve(directory, "from scratch", saved)


def trained_curve(directory: Path, name: str, saved: LastSaved) -> TrainedCurve:
    """The curve of a directory of `ckptgrow train`, with what its last checkpoint says of itself."""
    return replace(_curve(directory, name, saved.without_embeddings, 0.0, 0), data=saved.data)


def _curves(work: Work, expected: Sequence[ForeseenStage]) -> list[TrainedCurve]:
    found: list[TrainedCurve] = []
    spent = 0.0
    for number, stage in enumerate(work.plan.stages):
        if not metrics_rows(work.directory(stage)):
            break
        params = expected[number].size.without_embeddings
        probed = work.journal.result(f"{stage.name}/{PROBE}")
        spent += 0.0 if probed is None else float(probed["flops"])
        curve = _curve(work.directory(stage), stage.name, params, spent, work.tokens_before(number))
        has_saved = work.last(stage).exists()
        found.append(replace(curve, data=last_saved(work.directory(stage)).data) if has_saved else curve)
        spent = max(spent, found[-1].spent)
    return found


def _curve(directory: Path, name: str, params: int, spent: float, tokens_before: int) -> TrainedCurve:
    rows = metrics_rows(directory)
    validated, logged = [row for row in rows if row["val_loss"]], [row for row in rows if row["loss"]]

    def flops(chosen: list[dict[str, str]]) -> Vector:
        return spent + 6.0 * params * (_column(chosen, "tokens") - tokens_before)

    return TrainedCurve(
        name=name,
        params=params,
        flops=flops(validated),
        val_losses=_column(validated, "val_loss"),
        step_flops=flops(logged),
        losses=_column(logged, "loss"),
        rates=_column(logged, "lr"),
    )


def of_other_data(curves: Sequence[TrainedCurve]) -> str:
    """A sentence where curves are of different data, so that their losses say nothing of each other; else ""."""
    named: dict[str, str] = {}
    for one in curves:
        if one.data:
            named.setdefault(one.data, one.name)
    if len(named) < 2:
        return ""
    return f"{listing(named.values())} were trained on different data: their losses cannot be compared"


def _column(rows: list[dict[str, str]], name: str) -> Vector:
    return np.array([float(row[name]) for row in rows], dtype=np.float64)


def _growths(work: Work) -> list[RecordedGrowth]:
    found: list[RecordedGrowth] = []
    for stage in work.plan.stages:
        for operator in () if stage.operator is None else OPERATORS[stage.operator]:
            result = work.journal.result(f"{stage.name}/{operator}")
            if result is not None:
                verified = work.journal.result(f"{stage.name}/verify-{operator}")
                found.append(RecordedGrowth(stage.name, operator, result, verified))
    return found


def _results(work: Work, job: str) -> dict[str, Mapping[str, Any]]:
    """Of the jobs of a name, as far as they are done, by stage."""
    results = {one.name: work.journal.result(f"{one.name}/{job}") for one in work.plan.stages}
    return {name: result for name, result in results.items() if result is not None}


def _expected(work: Work) -> tuple[tuple[float, float], ...]:
    found: list[tuple[float, float]] = []
    spent = 0.0
    for stage in work.plan.stages:
        if stage.compute is None or stage.loss is None:
            return ()
        spent += stage.compute
        found.append((spent, stage.loss))
    return tuple(found)
