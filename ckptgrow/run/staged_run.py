"""The run: a plan's jobs, one after the other, each noted in the journal when it is done.

A run that was ended at any moment goes on with the job it was in. Jobs are idempotent: training goes on from its
newest checkpoint, a growth is made again from the same bytes to the same bytes, and a verification judges again.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ckptgrow.errors import RequestError
from ckptgrow.probe.report_of_probe import ranking
from ckptgrow.recipes.recipe_options import OPERATORS
from ckptgrow.run.closing_jobs import EvaluateJob, TidyJob
from ckptgrow.run.devices import Devices
from ckptgrow.run.foreseen import as_trees
from ckptgrow.run.growth_jobs import GrowJob, VerificationFailed, VerifyJob
from ckptgrow.run.journal import Journal
from ckptgrow.run.probe_job import ProbeJob
from ckptgrow.run.staged_plan import PROBE, StagedPlan
from ckptgrow.run.train_job import StoppedBySignal, TrainJob
from ckptgrow.run.work import Listener, Work
from ckptgrow.train.occupied import occupied

if TYPE_CHECKING:
    from ckptgrow.run.forecast import Forecast


class Job(Protocol):
    """A part of a run that is done or not."""

    @property
    def name(self) -> str:
        """In the journal: the stage and what is done."""
        ...

    def words(self, work: Work) -> list[list[str]]:
        """The commands that do the same by hand."""
        ...

    def run(self, work: Work, listener: Listener) -> Mapping[str, Any]:
        """Does it, or goes on with it; returns what the journal keeps."""
        ...


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended: done where nothing else is said. `problems` are those of a growth that did not verify."""

    out: Path
    interrupted_by: int | None = None
    failed: str | None = None
    problems: tuple[str, ...] = ()


def jobs_of(plan: StagedPlan) -> list[Job]:
    """Everything that a plan has to be done, in its order."""
    found: list[Job] = []
    for number, stage in enumerate(plan.stages):
        if stage.recipe == PROBE:
            found.append(ProbeJob(number, stage))
        for operator in () if stage.operator is None else OPERATORS[stage.operator]:
            found += [GrowJob(number, stage, operator), VerifyJob(number, stage, operator)]
        found.append(TrainJob(number, stage))
        asked = stage.evaluate or plan.evaluate
        if asked is not None:
            found.append(EvaluateJob(stage, asked))
        if plan.keep != "all":
            found.append(TidyJob(number, stage))
    return found


def run_plan(
    plan: StagedPlan,
    data: Path | str,
    out: Path,
    listener: Listener,
    devices: Devices | None = None,
    only: str | None = None,
) -> RunOutcome:
    """Executes a plan in a directory, or goes on with it there; `only` one of its jobs, where those before it are done.

    Raises RequestError for another plan or other data than the directory's run began with, a directory that another
    process holds, and a disk without room; what jobs raise otherwise.
    """
    from ckptgrow.run.checked_ahead import check_ahead
    from ckptgrow.run.forecast import forecast

    with occupied(out):
        work = Work(plan=plan, data=data, out=out, journal=Journal.read(out), devices=devices or Devices())
        expected = forecast(work)
        check_ahead(work, expected)
        _check_room(work, expected)
        work.journal.begin(tree_of(plan, data))
        work.journal.foresees(as_trees(expected))
        work.write_first_config()
        for job in _asked(work, only):
            began, planned = work.journal.started(job.name), _after_probe(job, work)
            listener.job(job.name, "")
            try:
                result = job.run(work, listener)
            except StoppedBySignal as stop:
                return RunOutcome(out, interrupted_by=stop.number)
            except VerificationFailed as failure:
                work.journal.failed(job.name, failure.sentences)
                return RunOutcome(out, failed=job.name, problems=tuple(failure.sentences))
            work.journal.finished(job.name, result, began)
            listener.job(job.name, _in_words(result))
            for before, now in zip(planned, _after_probe(job, work), strict=True):
                if before != now:
                    listener.tell(f"planned as {before}; by the probe {now}")
    return RunOutcome(out)


def _after_probe(job: Job, work: Work) -> list[str]:
    """The commands of the stage behind its probe, as far as is known what it chooses; none behind other jobs."""
    if not isinstance(job, ProbeJob):
        return []
    behind = [one for one in jobs_of(work.plan) if isinstance(one, GrowJob | TrainJob) and one.stage == job.stage]
    return [shlex.join(words) for one in behind for words in one.words(work)]


def tree_of(plan: StagedPlan, data: Path | str) -> dict[str, Any]:
    """What a run's directory is for: a plan, and its data."""
    return {**asdict(plan), "data": str(data)}


def _asked(work: Work, only: str | None) -> Sequence[Job]:
    """The jobs that are still to be done."""
    jobs = jobs_of(work.plan)
    names = [job.name for job in jobs]
    if only is not None and only not in names:
        raise RequestError(f"⟦only {only}⟧: is not a job of the plan, expected one of {', '.join(names)}")
    left = [job for job in jobs if work.journal.result(job.name) is None]
    if only is None:
        return left
    before = next((job.name for job in left if names.index(job.name) < names.index(only)), None)
    if before is not None:
        raise RequestError(f"⟦only {only}⟧: {before} is not done, expected every job before it to be")
    return [job for job in left if job.name == only]


def _check_room(work: Work, expected: Forecast) -> None:
    """Raises RequestError where the disk has not what the rest of the run will take at its fullest."""
    there = sum(one.stat().st_size for one in work.out.rglob("*.ckpt") if one.is_file())
    needed = expected.disk_bytes - there
    free = shutil.disk_usage(work.out).free
    if free < needed:
        raise RequestError(
            f"{work.out}: has {free / 2**30:.2f} GiB free, expected {needed / 2**30:.2f} GiB more for the plan's "
            "checkpoints; make room, let the plan keep fewer (keep: ends, or newest), or choose another disk"
        )


def _in_words(result: Mapping[str, Any]) -> str:
    """A job's result in a line."""
    if "val_loss" in result:
        losses = [f"{name} {result[name]:.4f}" for name in ("loss", "val_loss") if result[name] is not None]
        ends = {"slope_reached": ", ended by its slope", "loss_reached": ", ended by its loss"}
        reached = next((said for name, said in ends.items() if result.get(name) is not None), "")
        told = (f"step {result['step']:,}{reached}", ", ".join(losses), f"{result['flops']:.3g} FLOPs")
        return "; ".join(filter(None, told))
    if "parameters" in result:
        old, new = result["parameters"]
        return f"{old:,} → {new:,} parameters"
    if "passed" in result:
        moments = "" if result["moments"] is None else f", moments {result['moments']:.1e}"
        return f"verified: logits differ by {result['logits']:.1e} of the largest{moments}"
    if "winner" in result:
        return f"{ranking(result['winner'], result['level'], result['rungs'][-1])}; {result['flops']:.3g} FLOPs"
    if "results" in result:
        return "; ".join(f"{task} {_score(scores)}" for task, scores in result["results"].items())
    return f"removed {len(result.get('removed', ()))} checkpoints"


def _score(scores: Mapping[str, Any]) -> str:
    shown = [f"{name.partition(',')[0]} {value:.4f}" for name, value in scores.items() if "stderr" not in name]
    if "num_tokens" in scores:  # a file's: a validation in training has another number of sequences
        of_val = "val_loss is over the split's first val_sequences, of the length that is trained on"
        extent = f" (over all {scores['sample_len']:,} sequences as long as the model reads; {of_val})"
    else:
        extent = ""
    return ", ".join(shown[:2]) + extent
