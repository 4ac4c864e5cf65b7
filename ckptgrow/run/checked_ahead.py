"""What a later job of a run would refuse, told before the first one begins: hours later it would be told too late."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ckptgrow.errors import RequestError, within
from ckptgrow.probe.rungs import Cost, budget_of, rungs_within
from ckptgrow.run.closing_jobs import VALIDATION
from ckptgrow.run.forecast import Forecast, StageForecast
from ckptgrow.run.probe_job import ProbeJob
from ckptgrow.run.staged_plan import PROBE, Evaluations
from ckptgrow.run.work import SEQLEN, Work
from ckptgrow.train.fitting_data import check_data_fits, check_numbers
from ckptgrow.train.mixtures import Mixture

KEPT_THROUGH = ("seqlen", "seed")  # by which a run's place in its data counts


def check_ahead(work: Work, expected: Forecast) -> None:
    """Raises CkptgrowError with the stage's name for what cannot be trained or evaluated."""
    data = Mixture.open(work.data)
    for number, one in enumerate(expected.stages):
        with within(one.stage.name):
            check_numbers(one.settings)
            check_data_fits(one.settings, data)
            if number:
                _check_goes_on(expected.stages[number - 1], one)
            if one.stage.recipe == PROBE:
                _check_probe(number, expected.stages)
            asked = one.stage.evaluate or work.plan.evaluate
            if asked is not None:
                _check_evaluations(asked, data)
            _check_tasks(one.settings.eval_tasks, custom=one.settings.eval_include is not None)


def _check_goes_on(before: StageForecast, after: StageForecast) -> None:
    for name in KEPT_THROUGH:
        old, new = getattr(before.settings, name), getattr(after.settings, name)
        if old != new:
            raise RequestError(
                f"has {name} {new}, expected {old} as in {before.stage.name}: a run's place in its data counts by it"
            )


def _check_probe(number: int, stages: Sequence[StageForecast]) -> None:
    """Raises RequestError for a budget that would not pay a probe, even if all stages before were as long as they may.

    As short as they may be nobody knows: a probe that cannot be paid then stops the run.
    """
    one = stages[number]
    asked = one.stage.probe
    if asked.steps:
        return
    cost = Cost.by_size(
        one.size,
        runs=ProbeJob(number, one.stage).num_arms,
        batch=one.settings.whole_batch,
        sequences=asked.sequences,
        seqlen=one.settings.seqlen or SEQLEN,
    )
    rungs_within(budget_of(asked.budget, sum(before.flops for before in stages[:number])), cost)


def _check_evaluations(asked: Evaluations, data: Mixture) -> None:
    for name in asked.perplexity:
        if name == VALIDATION and not data.validated:
            raise RequestError("evaluate.perplexity: the data have no validation tokens, expected a file's name")
        if name != VALIDATION and not Path(name).exists():
            raise RequestError(f"evaluate.perplexity: there is no file {name}, expected 'val' or a file")
    for task, file in asked.data.items():
        if not Path(file).exists():
            raise RequestError(f"evaluate.data: there is no file {file} for {task}, expected one")
    _check_tasks(asked.tasks)


def _check_tasks(names: Sequence[str], *, custom: bool = False) -> None:
    """Looks the names up; definitions of a user's own are read when training begins."""
    if not names or custom:
        return
    from ckptgrow.evaluate.definitions import find_definitions
    from ckptgrow.evaluate.dependency import require_harness

    require_harness()
    definitions = find_definitions(())
    for name in names:
        definitions.meaning(name)
