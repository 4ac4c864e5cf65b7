"""Growth within `train` of transformers' Trainer, through the public interface of its callbacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SaveStrategy
from transformers.training_args import ParallelMode

from ckptgrow.choices import AfterGrowth
from ckptgrow.errors import RequestError, listing
from ckptgrow.formats.growth_log import GrowthRecord, Rewarm, rewarm_of
from ckptgrow.formats.sidecar_files import GROWTH
from ckptgrow.growth.request import GrowthResult
from ckptgrow.live.in_place import become
from ckptgrow.live.live_growth import grow
from ckptgrow.live.live_state import LiveState, unwrapped_model
from ckptgrow.live.live_tensors import fingerprint_of
from ckptgrow.storage.files.json_files import write_json
from ckptgrow.train.growth_moment import GrowthMoment, RunGrowth
from ckptgrow.train.rising_again import gone_on, states_at
from ckptgrow.version import __version__

# in a row of the state's log_history, which every checkpoint keeps
RECORD, WHOSE, BEGAN = "ckptgrow", "ckptgrow_callback", "ckptgrow_began"


class TrainerGrowthCallback(TrainerCallback):
    """Grows the model of transformers' Trainer while it is trained, once: at the end of step `at_step`, or where the
    slope of the evaluations' `monitor` (a loss in nats) has risen past `slope`, "auto" for the paper's τ of the
    operator. The rule of the slope is that of `ckptgrow train --until-slope`.

        callback = ckptgrow.TrainerGrowthCallback(at_step=1000, width=2)
        Trainer(model, args, train_dataset=dataset, callbacks=[callback]).train()

    Further options are those of `ckptgrow.grow`. At that moment the Trainer saves its checkpoint (`save_total_limit`
    counts it), the model, the optimizer and the scheduler become the grown ones before the next step, and the same
    `train` goes on. `report` tells what was done. The state's `log_history` gets a row with the record, so that a run
    that goes on knows that it has grown, and later checkpoints get a `ckptgrow.json`. The best checkpoint so far, which
    is of the small model, is forgotten.

    Where the Trainer lets nothing be changed within `train` (several devices, FSDP, DeepSpeed, NEFTune's hooks), and
    with `then` "stop", its checkpoint is grown as `grown-STEP` in `output_dir`, and the run ends: `train` returns, so
    that a script exits with 0, and `grown_checkpoint` says from where to `resume_from_checkpoint` with a model of it.

    Raises RequestError for options that contradict each other; in `train` for a `monitor` that evaluations lack, and
    for `save_strategy` "best", which saves nothing on request; what `ckptgrow.grow` raises.
    """

    def __init__(
        self,
        *,
        at_step: int | None = None,
        slope: float | Literal["auto"] | None = None,
        monitor: str = "eval_loss",
        then: AfterGrowth = "go on",
        **growth: Any,
    ) -> None:
        self.growth = RunGrowth.checked(growth, then)
        self.moment = GrowthMoment.checked(at_step, slope, self.growth.asked)
        self.monitor = monitor
        self.report: GrowthResult | None = None
        self.grown_checkpoint: Path | None = None

    @property
    def key(self) -> str:
        """Tells the callbacks of several growths apart."""
        return f"{self.moment.at_step or self.moment.tau}, {self.growth.asked.name}"

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Takes from a run that goes on what was evaluated, and whether the model has grown."""
        if args.save_strategy == SaveStrategy.BEST:
            raise RequestError("save_strategy is best, expected one that saves on request: no, steps or epoch")
        unwrapped_model(kwargs["model"])
        since = 0
        for row in rows_of(state):
            if WHOSE in row:
                since = row["step"]
                self.moment.grown_at = since if row[WHOSE] == self.key else self.moment.grown_at
                row.setdefault(BEGAN, state.global_step)  # of what was grown as a file: only now is it known
            elif self.monitor in row:
                self.moment.validated(row["step"], row[self.monitor], since)
        self.moment.stepped(state.global_step)
        last = next((row for row in reversed(rows_of(state)) if WHOSE in row), None)
        if last is not None and last[WHOSE] == self.key and self.growth.request.rewarm:
            rise: Rewarm = {"start": last[BEGAN], "steps": self.growth.request.rewarm}
            gone_on([kwargs["optimizer"]], states_at(rise, state.global_step, 1))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Whether the step that has ended is the moment; then the Trainer saves."""
        if self.moment.stepped(state.global_step):
            self._reach(args, state, control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Whether the slope now says so; then the Trainer saves."""
        metrics: Mapping[str, float] = kwargs["metrics"]
        if self.moment.tau is None:
            return
        if self.monitor not in metrics:
            raise RequestError(f"⟦monitor {self.monitor}⟧: is not evaluated, expected one of {listing(metrics)}")
        since = max((row["step"] for row in rows_of(state) if WHOSE in row), default=0)
        if self.moment.validated(state.global_step, metrics[self.monitor], since):
            self._reach(args, state, control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Grows the checkpoint that the moment asked for where the run cannot go on, and records growths in others."""
        directory = Path(str(args.output_dir))
        saved = directory / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        history: list[GrowthRecord] = [row[RECORD] for row in rows_of(state) if RECORD in row]
        if history and state.is_world_process_zero:
            log = {
                "version": __version__,
                "history": history,
                "rewarm": rewarm_of(history),
                "global_step": state.global_step,
            }
            write_json(saved / GROWTH, log)
        if self.moment.is_due and self._stops(args):
            grown = directory / f"grown-{state.global_step}"
            _wait_for_others()  # the first process may still be saving
            self.growth.on_disk(saved, grown, is_first=state.is_world_process_zero)
            _wait_for_others()
            self.grown_checkpoint = grown
            control.should_training_stop = True

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Grows where the moment has come."""
        if not self.moment.is_due or self._stops(args):
            return
        model = unwrapped_model(kwargs["model"])
        objects = model, [kwargs["optimizer"]], [kwargs["lr_scheduler"]]
        sha256 = fingerprint_of(once(model))
        grown = grow(*objects, **self.growth.options, global_step=state.global_step)
        become(*objects, grown)
        record: GrowthRecord = {**grown.report.record, "source_sha256": sha256}
        self.report, self.moment.grown_at = replace(grown.report, record=record), state.global_step
        self._note(state, {RECORD: record, BEGAN: state.global_step})
        state.best_metric = state.best_model_checkpoint = state.best_global_step = None

    def _reach(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        control.should_save = True
        if self._stops(args):
            self._note(state, {})  # in what is saved, so that who goes on with what is grown of it does not grow again

    def _note(self, state: TrainerState, more: Mapping[str, Any]) -> None:
        rows_of(state).append({"step": state.global_step, "epoch": state.epoch, **more, WHOSE: self.key})

    def _stops(self, args: TrainingArguments) -> bool:
        is_single = args.parallel_mode == ParallelMode.NOT_PARALLEL and not args.deepspeed
        return self.growth.then == "stop" or not is_single or args.neftune_noise_alpha is not None


def rows_of(state: TrainerState) -> list[dict[str, Any]]:
    """The rows of a run's history, which hold more than the numbers that transformers says."""
    return cast(list[dict[str, Any]], state.log_history)


def once(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A model's tensors by the names that its saved directory has: of ties the first alone."""
    state = LiveState(model=model, optimizers=(), schedulers=())
    return {name: state.owned[name] for name in state.name_of.values()}


def _wait_for_others() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
