"""Where a run stands: what is done, what is under way, what is left; read from its files alone."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from ckptgrow.errors import RequestError
from ckptgrow.planning.watching import Watch, seen
from ckptgrow.run.foreseen import foreseen
from ckptgrow.run.journal import BEGUN, FAILED, Journal
from ckptgrow.run.plan_reading import plan_in
from ckptgrow.run.staged_run import jobs_of
from ckptgrow.run.train_job import tau_of
from ckptgrow.run.work import Work
from ckptgrow.train.occupied import is_occupied
from ckptgrow.train.run_directory import metrics_rows
from ckptgrow.train.step_progress import Progress, newest_progress, validated_in_words

WAITING, UNDER_WAY, DONE, STOPPED, LEFT = "waiting", "under way", "done", "failed", "interrupted"
NEVER = float("inf")  # a slope that nothing rises past: only the slope itself is asked for


@dataclass(frozen=True)
class JobStanding:
    """A job, its state, and the seconds that it took where it is done."""

    name: str
    state: str
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """See the module's head; FLOPs and seconds that are left, bytes that are free. `progress` and `slope` are those of
    the stage that is being trained, `tau` the slope that ends it.
    """

    out: Path
    jobs: tuple[JobStanding, ...]
    progress: Progress | None
    slope: Watch | None
    tau: float | None
    flops_left: float
    seconds_left: float | None
    free_bytes: int

    @property
    def current(self) -> str | None:
        """The job that is under way or comes next; None where all are done."""
        return next((one.name for one in self.jobs if one.state != DONE), None)

    @property
    def sentence(self) -> str:
        """In a line."""
        if self.current is None:
            return "done"
        is_left = any(one.state == LEFT for one in self.jobs)
        parts = [f"{self.current}, interrupted: the same command goes on there" if is_left else self.current]
        progress = self.progress if self.current.endswith("/train") else None
        if progress is not None:
            parts.append(f"step {progress.step:,} of {progress.total:,}")
            parts += [f"loss {progress.loss:.4f}"] if progress.loss is not None else []
            val_loss = validated_in_words("val", progress.val_loss, progress.val_step, progress.step)
            parts += [val_loss] if val_loss else []
            if self.slope is not None:
                against = "" if self.tau is None else f" against τ {self.tau:g}"
                parts.append(f"slope {self.slope.slope:.4f}{against}")
            speed = progress.tokens_per_second
            parts += [f"{speed:,.0f} tokens/s"] if speed is not None else []
        left = f"{self.flops_left:.3g} FLOPs"
        left += "" if self.seconds_left is None else f", {duration(self.seconds_left)}"
        parts += [f"left {left}", f"{self.free_bytes / 2**30:.1f} GiB free"]
        return ", ".join(parts)


def opened_run(out: Path) -> Work:
    """The work of a run's directory, as its journal says; raises RequestError where it holds no run."""
    journal = Journal.read(out)
    if journal.plan is None:
        raise RequestError(f"{out}: holds no run, expected the ⟦out⟧ of a `ckptgrow run`")
    plan, data = plan_in(journal.plan)
    return Work(plan=plan, data=data, out=out, journal=journal)


def standing(work: Work) -> Standing:
    """Where a run stands."""
    journal = Journal.read(work.out)
    work = replace(work, journal=journal)
    expected = foreseen(work)
    names = [one.name for one in jobs_of(work.plan)]
    is_at_work = is_occupied(work.out)
    jobs = tuple(_job(name, journal, is_at_work=is_at_work) for name in names)
    number = next((n for n, one in enumerate(work.plan.stages) if journal.result(f"{one.name}/train") is None), None)
    free = shutil.disk_usage(work.out).free
    if number is None:
        return Standing(
            out=work.out, jobs=jobs, progress=None, slope=None, tau=None, flops_left=0.0, seconds_left=0.0,
            free_bytes=free,
        )  # fmt: skip
    stage, one = work.plan.stages[number], expected[number]
    begins = work.start(number)
    rows = metrics_rows(work.directory(stage))
    progress = newest_progress(rows, begins + one.steps)
    done = 0 if progress is None else max(0, progress.step - begins)
    left = sum(later.flops for later in expected[number:]) - one.flops * done / one.steps
    speed = None if progress is None else progress.tokens_per_second
    tau = tau_of(work.plan, number)
    return Standing(
        out=work.out,
        jobs=jobs,
        progress=progress,
        slope=_slope(rows, tau),
        tau=tau,
        flops_left=left,
        seconds_left=left / one.size.flops(speed) if speed else None,
        free_bytes=free,
    )


def _job(name: str, journal: Journal, *, is_at_work: bool) -> JobStanding:
    if journal.result(name) is not None:
        return JobStanding(name, DONE, journal.seconds(name))
    events = [one["event"] for one in journal.entries if one.get("job") == name]
    states = {BEGUN: UNDER_WAY if is_at_work else LEFT, FAILED: STOPPED}
    return JobStanding(name, states.get(events[-1], WAITING) if events else WAITING, None)


def _slope(rows: list[dict[str, str]], tau: float | None) -> Watch | None:
    validated = [row for row in rows if row["val_loss"]]
    steps, losses = [int(row["step"]) for row in validated], [float(row["val_loss"]) for row in validated]
    return seen(steps, losses, NEVER if tau is None else tau)


def duration(seconds: float) -> str:
    """For people.

    >>> duration(75), duration(7500), duration(4)
    ('1 min 15 s', '2 h 5 min', '4 s')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
