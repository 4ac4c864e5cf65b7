"""`ckptgrow run`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ckptgrow.commands._option_helps import helps_of
from ckptgrow.commands._paths import check_place, data_at, file_of, run_at
from ckptgrow.commands._run_view import run_view
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.commands._spelling import spelled_in
from ckptgrow.commands.depth import depth
from ckptgrow.commands.train import train
from ckptgrow.commands.verify import verify
from ckptgrow.commands.width import width
from ckptgrow.errors import RequestError, needs

if TYPE_CHECKING:
    from ckptgrow.run.devices import Devices
    from ckptgrow.run.forecast import Forecast, StageForecast
    from ckptgrow.run.staged_run import RunOutcome
    from ckptgrow.run.standing import Standing
    from ckptgrow.run.work import Work

EXIT_DIFFERENT = 1
WITH_OPTIONS: Mapping[str, Callable[..., Any]] = {"depth": depth, "width": width, "train": train, "verify": verify}


def run_plan(
    plan: Annotated[
        Path | None,
        typer.Argument(
            metavar="PLAN",
            help="A plan (.yaml or .json), as `ckptgrow plan law --out` writes it.",
            show_default=False,
            callback=file_of("a plan"),
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="A directory that `ckptgrow data` wrote, or several with weights, as A:0.7,B:0.3 [default: the "
            "plan's].",
            metavar="DIR",
            show_default=False,
            callback=data_at,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's directory.", show_default=False)] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what will happen, how many FLOPs, how much disk and time it takes.")
    ] = False,
    measure: Annotated[int, typer.Option(help="With --dry-run, steps of every stage's model to time; 0 for none.")] = 5,
    status: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Tell where the run in DIR stands.", show_default=False, callback=run_at),
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of plans, by which editors complete them.")
    ] = False,
    devices: Annotated[int, typer.Option(help="Processes or GPUs on each node, for training.")] = 1,
    nodes: Annotated[int, typer.Option(help="Nodes, for training.")] = 1,
    launcher: Annotated[
        Literal["lightning", "srun"],
        typer.Option(help="Who starts the processes of training, where there are several."),
    ] = "lightning",
    slurm: Annotated[bool, typer.Option("--slurm", help="Hand a chain of jobs to sbatch instead of running.")] = False,
    only: Annotated[
        str | None,
        typer.Option(metavar="JOB", help="Do one job of the run alone, as stage-2/train.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """A whole staged training: train, watch the slope, grow, verify, go on; resumable at any moment.

    Started again with the same words, it goes on where it was. A growth that fails its verification stops the run
    (exit 1) and keeps everything.

    Examples:
        ckptgrow run plan.yaml --data prepared --out staged --dry-run    # what it takes
        ckptgrow run plan.yaml --data prepared --out staged              # again, to go on after an interruption
        ckptgrow run --status staged
    """
    screen = Screen(as_json)
    with needs("run", "train,plan"):
        if schema:
            from ckptgrow.run.plan_reading import plan_schema

            print(
                json.dumps(plan_schema({name: helps_of(command) for name, command in WITH_OPTIONS.items()}), indent=2)
            )
            return 0
        if status is not None:
            from ckptgrow.run.standing import opened_run, standing

            _show_standing(standing(opened_run(status)), screen)
            return 0
        for name, value in (("PLAN", plan), ("--out", out)):
            if value is None:
                raise RequestError(f"run: lacks {name}, expected ckptgrow run PLAN --data DIR --out DIR")
        assert plan is not None and out is not None
        from ckptgrow.run.devices import Devices

        check_place(out, "a staged run")
        work = _work(plan, data, out, Devices(devices, nodes, launcher))
    if dry_run:
        _show_forecast(work, measure, screen)
        return 0
    if slurm:
        from ckptgrow.run.checked_ahead import check_ahead
        from ckptgrow.run.forecast import forecast
        from ckptgrow.run.slurm_chain import submit_chain

        check_ahead(work, forecast(work))
        for one in submit_chain(work, plan):
            screen.say(f"{one.number}\t{one.script}")
        return 0
    return _run(work, only, screen)


def _work(plan: Path, data: str | None, out: Path, devices: Devices) -> Work:
    from ckptgrow.run.journal import Journal
    from ckptgrow.run.plan_reading import read_plan
    from ckptgrow.run.staged_run import tree_of
    from ckptgrow.run.work import Work

    found = read_plan(plan)
    chosen = found.data if data is None else data
    if not isinstance(chosen, str):
        raise RequestError("run: lacks --data, and the plan has none, expected ckptgrow run PLAN --data DIR --out DIR")
    journal = Journal.read(out)
    journal.check_plan(tree_of(found, chosen))  # before forecasts, and for a dry run too
    from ckptgrow.train.mixtures import Mixture

    Mixture.open(chosen)  # names what is wrong with it
    return Work(plan=found, data=chosen, out=out, journal=journal, devices=devices)


def _run(work: Work, only: str | None, screen: Screen) -> int:
    from ckptgrow.run.staged_run import run_plan as run
    from ckptgrow.run.standing import standing

    with run_view(screen, lambda: standing(work)) as view:
        done = run(work.plan, work.data, work.out, view, work.devices, only)
    _show_outcome(done, screen)
    if done.interrupted_by is not None:
        return 128 + done.interrupted_by
    return 0 if done.failed is None else EXIT_DIFFERENT


def _show_outcome(done: RunOutcome, screen: Screen) -> None:
    if done.interrupted_by is not None:
        screen.warn("interrupted and saved; start it again with the same words to go on")
    for problem in done.problems:
        screen.say(f"- {problem}")
    if done.failed is not None:
        screen.say(f"{done.failed}: the growth lost something, so the run stops here; everything is kept", style="red")
    elif done.interrupted_by is None:
        screen.say(f"{done.out}: done; see ckptgrow report {done.out}")
    screen.result(
        {
            "out": str(done.out),
            "interrupted_by": done.interrupted_by,
            "failed": done.failed,
            "problems": spelled_in(list(done.problems)),
        }
    )


def _show_standing(found: Standing, screen: Screen) -> None:
    rows = [(one.name, one.state, one.seconds) for one in found.jobs]
    screen.table(str(found.out), ("job", "state", "seconds"), rows)
    screen.say(found.sentence)
    slope = None if found.slope is None else [found.slope.slope, *found.slope.slope_interval]
    screen.result(
        {
            "out": str(found.out),
            "jobs": [vars(one) for one in found.jobs],
            "current": found.current,
            "progress": None if found.progress is None else vars(found.progress),
            "slope": slope,
            "tau": found.tau,
            "flops_left": found.flops_left,
            "seconds_left": found.seconds_left,
            "free_bytes": found.free_bytes,
        }
    )


def _show_forecast(work: Work, measure: int, screen: Screen) -> None:
    from ckptgrow.run.checked_ahead import check_ahead
    from ckptgrow.run.forecast import forecast
    from ckptgrow.run.staged_run import jobs_of
    from ckptgrow.run.standing import duration
    from ckptgrow.run.work import FIRST_MODEL

    check_ahead(work, forecast(work))
    with screen.stages() as stage:
        found = forecast(work, measure, stage)
    columns = ("stage", "parameters", "without embeddings", "from step", "steps", "tokens", "FLOPs", "time")
    screen.table("stages", columns, [row for one in found.stages for row in _rows(one)])
    at_most = " at most" if any(one.stage.grow or one.stage.until_loss is not None for one in found.stages) else ""
    time = "" if found.seconds is None else f", {duration(found.seconds)} of training by {measure} measured steps each"
    screen.say(f"{found.flops:.3g} FLOPs{time}{at_most}; {found.disk_bytes / 2**30:.3f} GiB of disk at the fullest.")
    for one in found.stages:
        if one.not_measured:
            screen.say(f"{one.stage.name}: how long it takes was not measured here: {one.not_measured}.")
    for one in found.stages:
        if one.probe_flops:
            screen.say(
                f"{one.stage.name}: the commands below are without what its probe will choose; the run then says them "
                "with it, and so does this command."
            )
    if work.first_config is not None:
        screen.say(f"The run writes {work.out / FIRST_MODEL} first; by hand, give {work.out} that file. Its commands:")
    commands = [shlex.join(words) for job in jobs_of(work.plan) for words in job.words(work)]
    for command in commands:
        screen.say(command)
    screen.result({**_as_tree(found), "commands": commands})


def _rows(one: StageForecast) -> list[tuple[object, ...]]:
    """A stage's rows, its probe's first."""
    from ckptgrow.run.standing import duration

    size = one.size.total, one.size.without_embeddings
    training = (one.stage.name, *size, one.start, one.steps, one.tokens, f"{one.flops:.3g}")
    rows: list[tuple[object, ...]] = [(*training, None if one.seconds is None else duration(one.seconds))]
    if one.probe_flops:
        tokens = round(one.probe_flops / one.size.flops(1))
        probing = (f"{one.stage.name}/probe", *size, None, None, tokens, f"{one.probe_flops:.3g}")
        rows.insert(0, (*probing, None if one.probe_seconds is None else duration(one.probe_seconds)))
    return rows


def _as_tree(found: Forecast) -> dict[str, object]:
    return {
        "stages": [
            {
                "name": one.stage.name,
                "parameters": one.size.total,
                "params": one.size.without_embeddings,
                "start": one.start,
                "steps": one.steps,
                "tokens": one.tokens,
                "flops": one.flops,
                "seconds_per_step": one.seconds_per_step,
                "probe": {"flops": one.probe_flops, "seconds": one.probe_seconds} if one.probe_flops else None,
            }
            for one in found.stages
        ],
        "flops": found.flops,
        "disk_bytes": found.disk_bytes,
        "seconds": found.seconds,
    }
