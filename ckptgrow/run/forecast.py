"""What a plan will take, before it runs: steps, tokens, FLOPs and disk of every stage, and from a few steps the time.

Models are foreseen by the growths themselves, from configs alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch

from ckptgrow.errors import within
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.recipes.model_sizes import ModelSize, grown_config, size_of
from ckptgrow.recipes.recipe_options import OPERATORS
from ckptgrow.run.growth_jobs import recipe_of
from ckptgrow.run.probe_job import ProbeJob
from ckptgrow.run.staged_plan import PROBE, PlannedStage, StagedPlan
from ckptgrow.run.train_job import TrainJob
from ckptgrow.run.work import SEQLEN, Work, length
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.config_sources import architecture_of
from ckptgrow.state.opening import architecture_in
from ckptgrow.train.run_directory import metrics_rows
from ckptgrow.train.settings import TrainSettings, settings_for, with_fitting_length
from ckptgrow.train.training_run import train

TIMED_FROM = 2  # steps: the first ones allocate
MOST_MEASURED = 5e12  # FLOPs: about two minutes of two cores
MOST_OF_MEMORY = 0.7  # of what is free
STATES = 4  # numbers a parameter: itself, its gradient and two moments
OF_LOSS = 4  # numbers a logit: itself, its log-softmax and their gradients
OF_WHAT_GOES_ON = ("reset", "step", "rewarm", "rewarm_new", "freeze")  # no model from scratch has them


@dataclass(frozen=True, kw_only=True)
class StageForecast:
    """A stage as planned: config and settings of its training; sizes, `steps` at most, tokens of these, FLOPs; bytes of
    its checkpoints at their most, and of what it begins with; seconds a step where some were measured, or why
    none were; FLOPs and bytes of the probe before it.
    """

    stage: PlannedStage
    config: Mapping[str, Any]
    settings: TrainSettings
    size: ModelSize
    start: int
    steps: int
    tokens: int
    flops: float
    checkpoint_bytes: int
    grown_bytes: int
    seconds_per_step: float | None = None
    not_measured: str = ""
    probe_flops: float = 0.0
    probe_bytes: int = 0

    @property
    def seconds(self) -> float | None:
        """Of its training, at most; None where no steps were measured."""
        return None if self.seconds_per_step is None else self.seconds_per_step * self.steps

    @property
    def probe_seconds(self) -> float | None:
        """Of its probe, at most, as long a FLOP as its training's."""
        return None if self.seconds is None else self.seconds * self.probe_flops / self.flops


@dataclass(frozen=True)
class Forecast:
    """All stages; `disk_bytes` is what lies there at the fullest moment."""

    stages: tuple[StageForecast, ...]
    disk_bytes: int

    @property
    def flops(self) -> float:
        """In all."""
        return sum(one.flops + one.probe_flops for one in self.stages)

    @property
    def seconds(self) -> float | None:
        """Of training and of probes, in all; None where something was not measured."""
        known = [seconds for one in self.stages for seconds in (one.seconds, one.probe_seconds) if seconds is not None]
        return sum(known) if len(known) == 2 * len(self.stages) else None


def forecast(work: Work, measure: int = 0, tell: Callable[[str], None] = lambda sentence: None) -> Forecast:
    """What the plan will take; of `measure` steps of every stage's model, trained from scratch, also how long. `tell`
    hears what is being done.

    Raises what growths and configs raise that cannot be.
    """
    found: list[StageForecast] = []
    carried: dict[str, Any] = {}
    for number, stage in enumerate(work.plan.stages):
        with within(stage.name):
            config = first_config(work) if number == 0 else _grown(found[-1].config, stage)
        given = TrainJob(number, stage).given(work)
        settings = with_fitting_length(settings_for(given, carried), config, {**carried, **given})
        carried = settings.carried()
        found.append(_with_probe(_stage(work, number, config, settings), number, settings, found))
        too_much = _too_much(found[-1], measure)
        if too_much:
            found[-1] = replace(found[-1], not_measured=too_much)
        elif measure:
            tell(f"measuring steps of {stage.name}")
            seconds = _seconds_per_step(given | {"config": dict(config)}, carried, measure, work.out)
            found[-1] = replace(found[-1], seconds_per_step=seconds)
    return Forecast(tuple(found), _disk_bytes(work.plan, found))


def first_config(work: Work) -> Mapping[str, Any]:
    """The first model's config, completed by its family's defaults."""
    file = work.plan.checkpoint or work.plan.init_from
    if file is not None:
        return architecture_in(Path(file)).config
    assert work.first_config is not None
    return _architecture(work.first_config).config


def _architecture(config: Mapping[str, Any]) -> Architecture:
    return architecture_of(Checkpoint(path=Path("config"), kind="config", tensors={}, config=config))


def _grown(config: Mapping[str, Any], stage: PlannedStage) -> Mapping[str, Any]:
    assert stage.operator is not None
    for operator in OPERATORS[stage.operator]:
        config = grown_config(config, operator, recipe_of(stage, operator)[0])
    return config


def _stage(work: Work, number: int, config: Mapping[str, Any], settings: TrainSettings) -> StageForecast:
    stage, size = work.plan.stages[number], size_of(config)
    steps = length(stage)
    tokens = steps * settings.whole_batch * (settings.seqlen or SEQLEN)
    written = steps // settings.save_every + 1
    num = min(written, settings.keep + 1) if settings.keep else written
    operators = 0 if stage.operator is None else len(OPERATORS[stage.operator])
    return StageForecast(
        stage=stage,
        config=config,
        settings=replace(settings, config=dict(config)),
        size=size,
        start=work.start(number),
        steps=steps,
        tokens=tokens,
        flops=size.flops(tokens),
        checkpoint_bytes=num * size.state_bytes,
        grown_bytes=operators * size.state_bytes,
    )


def _with_probe(one: StageForecast, number: int, settings: TrainSettings, before: list[StageForecast]) -> StageForecast:
    """With what its probe takes, where it has one."""
    if one.stage.recipe != PROBE:
        return one
    job, spent = ProbeJob(number, one.stage), sum(stage.flops for stage in before)
    flops = job.flops(one.size, settings.whole_batch * (settings.seqlen or SEQLEN), spent)
    return replace(one, probe_flops=flops, probe_bytes=(job.num_arms + 2) * one.size.state_bytes)


def _disk_bytes(plan: StagedPlan, stages: list[StageForecast]) -> int:
    """The fullest moment: while a stage trains, with what is kept of those before it."""
    kept = fullest = 0
    for one in stages:
        fullest = max(fullest, kept + one.grown_bytes + one.checkpoint_bytes, kept + one.probe_bytes)
        if plan.keep == "all":
            kept += one.grown_bytes + one.checkpoint_bytes
        else:
            kept = one.size.state_bytes + (kept if plan.keep == "ends" else 0)
    return fullest


def _too_much(one: StageForecast, num: int) -> str:
    """Why steps of a stage are not measured here, "" where they are: on a CPU, its memory, or minutes of work.

    Activations by Korthikanti et al. (arXiv 2205.05198, equation 1), of float32; logits as the loss needs them.
    """
    if not num or torch.cuda.is_available():
        return ""
    settings, architecture = one.settings, _architecture(one.config)
    tokens = settings.batch_size * (settings.seqlen or SEQLEN)
    logits = 4 * OF_LOSS * architecture.sizes["vocab"]
    layers = 2 * 34 * architecture.sizes["residual"] * architecture.num_layers
    needed, free = 4 * STATES * one.size.total + tokens * (logits + layers), psutil.virtual_memory().available
    if needed > MOST_OF_MEMORY * free:
        return f"a micro-batch takes some {needed / 2**30:.1f} GiB, of which {free / 2**30:.1f} are free"
    flops = one.size.flops(tokens * settings.grad_accum) * (TIMED_FROM + num)
    return f"{TIMED_FROM + num} steps are {flops:.2g} FLOPs" if flops > MOST_MEASURED else ""


def _seconds_per_step(given: Mapping[str, Any], carried: Mapping[str, Any], num: int, beside: Path) -> float:
    """The median of some steps, by a run of the stage's model that is thrown away."""
    where = next(one for one in (beside, *beside.parents) if one.exists())
    with TemporaryDirectory(dir=where, prefix=".measured-") as scratch:
        out = Path(scratch, "out")
        kept = {name: value for name, value in carried.items() if name in ("batch_size", "grad_accum", "seqlen")}
        short = {"train_steps": TIMED_FROM + num, "log_every": 1, "val_every": 10**9, "out": out, "logger": "csv"}
        alone = {"warmup_steps": 0, "until_slope": None, "until_loss": None, "sample": (), "eval_tasks": ()}
        apart = {name: value for name, value in given.items() if name not in OF_WHAT_GOES_ON}
        train({**kept, **apart, **short, **alone})
        rows = metrics_rows(out)[TIMED_FROM:]
    return statistics.median(float(row["seconds_per_step"]) for row in rows if row["seconds_per_step"])
