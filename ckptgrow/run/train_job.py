"""A stage's training: here, or in processes of its own; gone on with wherever it was."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptgrow.errors import CheckpointError, RequestError
from ckptgrow.planning.executed import LARGEST_MICRO
from ckptgrow.planning.operators import THRESHOLDS
from ckptgrow.recipes.command_words import words_of_command
from ckptgrow.recipes.recipe_options import OF_BEGINNINGS, OF_NEW_OPTIMIZERS, train_fields
from ckptgrow.run.devices import run_together
from ckptgrow.run.staged_plan import PlannedStage, StagedPlan
from ckptgrow.run.work import FIRST_MODEL, Listener, Work, length
from ckptgrow.train.run_directory import metrics_rows
from ckptgrow.train.step_progress import newest, newest_progress

KEPT_CHECKPOINTS = 2  # in a stage's directory, where the plan does not say: the newest, and the one before it
EXIT_SIGNALLED = 128
ENDS = ("reached", "loss_reached")


class StoppedBySignal(Exception):  # noqa: N818  no error: the stage was saved, and goes on
    """A signal ended a stage's training, after saving."""

    def __init__(self, number: int) -> None:
        super().__init__(str(number))
        self.number = number


@dataclass(frozen=True)
class TrainJob:
    """Trains a stage to its end: its steps, or where the slope says to grow."""

    number: int
    stage: PlannedStage

    @property
    def name(self) -> str:
        """In the journal."""
        return f"{self.stage.name}/train"

    def words(self, work: Work) -> list[list[str]]:
        """The command by hand."""
        given = self.given(work)
        model = _model(work, work.begins_with(self.number))
        return [words_of_command("train", [], {**_places(given), **model, **_values(given)})]

    def given(self, work: Work) -> dict[str, Any]:
        """What `train` is asked for, apart from what it goes on from."""
        stage, plan, chosen = self.stage, work.plan, work.chosen(self.stage)
        is_last = plan.after(self.number) is None
        asked = {
            "seqlen": stage.seqlen,
            "lr": stage.learning_rate,
            "warmup_steps": stage.warmup,
            "warmup_share": stage.warmup_share,
            "until_slope": tau_of(plan, self.number),
            "until_loss": stage.until_loss,
            "rewarm": None if stage.rewarm else stage.rewarm,  # a rise stands in what was grown
            **batches_of(stage, work.devices.count),
        }
        return {
            "data": work.data,
            "out": work.directory(stage),
            "train_steps": work.start(self.number) + length(stage),
            "schedule": stage.schedule or ("wsd" if is_last else "constant"),
            **{name: value for name, value in asked.items() if value is not None},
            "keep": KEPT_CHECKPOINTS,
            **self._options(plan),
            **({} if chosen is None else chosen.training),
        }

    def _options(self, plan: StagedPlan) -> dict[str, Any]:
        """The plan's and the stage's, without those for all stages that its checkpoint has decided already."""
        decided = () if makes_optimizer(plan, self.stage, self.number) else OF_NEW_OPTIMIZERS
        decided = (*decided, *(() if makes_model(plan, self.number) else ("recipe",)))
        found = train_fields({**plan.train, **self.stage.train})
        return {name: value for name, value in found.items() if name not in decided}

    def run(self, work: Work, listener: Listener) -> dict[str, Any]:
        """Trains; raises StoppedBySignal where a signal came first, and what `train` raises."""
        given, last = self.given(work), work.last(self.stage)
        if not is_finished(last, given["train_steps"]):
            directory = work.directory(self.stage)
            resume = last if last.exists() else work.begins_with(self.number)
            if resume == last:
                given = {name: value for name, value in given.items() if name not in OF_BEGINNINGS}
            if resume is None:
                shutil.rmtree(directory, ignore_errors=True)  # a run that was ended before its first checkpoint
            self._train(work, given, resume, listener)
        return self._result(work)

    def _train(self, work: Work, given: Mapping[str, Any], resume: Path | None, listener: Listener) -> None:
        if work.devices.count > 1:
            number = self._elsewhere(work, given, resume, listener)
        else:
            from ckptgrow.train.training_run import train

            model = _model(work, resume)
            if "config" in model:
                model = {"config": dict(work.first_config or {})}
            reported = lambda one: listener.trained(self.stage.name, one)  # noqa: E731
            number = train({**given, **model}, reported, listener.tell).interrupted_by
        if number is not None:
            raise StoppedBySignal(number)

    def _elsewhere(self, work: Work, given: Mapping[str, Any], resume: Path | None, listener: Listener) -> int | None:
        """In processes of its own; the signal's number where one ended them."""
        model = _model(work, resume)
        options = {**_places(given), **model, **_values(given), **work.devices.options}
        directory = work.directory(self.stage)

        def heard() -> None:
            progress = newest_progress(metrics_rows(directory), int(given["train_steps"]))
            if progress is not None:
                listener.trained(self.stage.name, progress)

        code = run_together(work.devices.command(words_of_command("train", [], options)), heard)
        if code > EXIT_SIGNALLED:
            return code - EXIT_SIGNALLED
        if code:
            raise CheckpointError(f"{self.name}: its processes ended with exit code {code}; see what they said above")
        return None

    def _result(self, work: Work) -> dict[str, Any]:
        """What the stage came to, from its files."""
        from ckptgrow.recipes.model_sizes import size_of
        from ckptgrow.train.resuming import TOKENS
        from ckptgrow.train.slope_stop import reached_in

        last = work.last(self.stage)
        tree = opened(last)
        config = tree["hyper_parameters"]["config"]
        size = size_of(_completed(config, last))
        tokens = int(tree[TOKENS])
        rows = metrics_rows(work.directory(self.stage))
        return {
            "checkpoint": str(last),
            "step": int(tree["global_step"]),
            "tokens": tokens,
            "flops": size.flops(tokens - work.tokens_before(self.number)),
            "params": size.without_embeddings,
            "parameters": size.total,
            "loss": newest(rows, "loss"),
            "val_loss": newest(rows, "val_loss"),
            "slope_reached": reached_in(tree),
            "loss_reached": reached_in(tree, "loss_reached"),
        }


def makes_model(plan: StagedPlan, number: int) -> bool:
    """Whether a stage trains a model that no checkpoint's training state belongs to."""
    return number == 0 and plan.checkpoint is None


def makes_optimizer(plan: StagedPlan, stage: PlannedStage, number: int) -> bool:
    """Whether a stage's optimizer is a new one, whose options nothing has decided yet."""
    options = stage.train if number == 0 else stage.recipe
    begins_anew = isinstance(options, Mapping) and "optimizer" in options.get("reset", ())
    return begins_anew or makes_model(plan, number)


def _model(work: Work, resume: Path | None) -> dict[str, Any]:
    """What a training begins with: a checkpoint to go on from, another's weights, or a config's file."""
    if resume is not None:
        return {"resume": resume}
    if work.plan.init_from is not None:
        return {"init_from": Path(work.plan.init_from)}
    return {"config": work.out / FIRST_MODEL}


def tau_of(plan: StagedPlan, number: int) -> float | None:
    """The slope at which a stage ends; None where its steps are fixed."""
    stage, following = plan.stages[number], plan.after(number)
    if stage.grow is None or following is None or following.operator is None:
        return None
    return THRESHOLDS[following.operator] if stage.grow.tau == "auto" else stage.grow.tau


def batches_of(stage: PlannedStage, num_devices: int) -> dict[str, int]:
    """Sequences a device and micro-batch, and micro-batches a step, for a stage's batch; nothing where it has none.

    Raises RequestError where the devices cannot share it.
    """
    if stage.batch_size is None:
        return {}
    if stage.batch_size % num_devices:
        raise RequestError(
            f"{stage.name}: {num_devices} devices cannot share batch_size {stage.batch_size} evenly, expected a divisor"
        )
    on_each = stage.batch_size // num_devices
    most = min(on_each, stage.micro_batch or LARGEST_MICRO)
    micro = max(one for one in range(1, most + 1) if on_each % one == 0)
    return {"batch_size": micro, "grad_accum": on_each // micro}


def is_finished(checkpoint: Path, total: int) -> bool:
    """Whether a stage's newest checkpoint is its last: at the last step, or where its slope or its loss ended it."""
    if not checkpoint.exists():
        return False
    from ckptgrow.train.slope_stop import reached_in

    tree = opened(checkpoint)
    return int(tree["global_step"]) >= total or any(reached_in(tree, end) is not None for end in ENDS)


def opened(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's tree, its tensors not read."""
    import torch

    return torch.load(checkpoint, weights_only=True, mmap=True, map_location="cpu")


def _completed(config: Mapping[str, Any], where: Path) -> Mapping[str, Any]:
    from ckptgrow.formats.checkpoint import Checkpoint
    from ckptgrow.state.config_sources import architecture_of

    return architecture_of(Checkpoint(path=where, kind="lightning", tensors={}, config=config)).config


def _places(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in ("data", "out")}


def _values(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in ("data", "out")}
