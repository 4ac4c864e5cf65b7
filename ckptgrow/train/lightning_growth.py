"""Growth within Lightning's `fit`, through the Trainer's public interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from transformers import PreTrainedConfig, PreTrainedModel

from ckptgrow.choices import AfterGrowth
from ckptgrow.errors import RequestError, listing
from ckptgrow.formats.growth_log import GrowthRecord, rewarm_of
from ckptgrow.formats.lightning import GROWTH_KEY
from ckptgrow.growth.request import GrowthResult
from ckptgrow.live.in_place import become
from ckptgrow.live.live_growth import grow
from ckptgrow.live.live_tensors import fingerprint_of
from ckptgrow.live.rewarming import Rewarming
from ckptgrow.train.growth_moment import GrowthMoment, RunGrowth
from ckptgrow.train.rising_again import gone_on, states_at, states_of
from ckptgrow.version import __version__

CONFIG = "config"  # of hyper-parameters


class LightningGrowthCallback(lightning.Callback):
    """Grows the transformers model of a LightningModule while it is trained, once: at the end of step `at_step`, or
    where the slope of the validations' `monitor` (a loss in nats, as the module logs it) has risen past `slope`, "auto"
    for the paper's τ of the operator. The rule of the slope is that of `ckptgrow train --until-slope`.

        callback = ckptgrow.LightningGrowthCallback(at_step=1000, width=2)
        lightning.Trainer(max_steps=3000, callbacks=[callback]).fit(module)

    Further options are those of `ckptgrow.grow`. At that moment the run is saved as `before-growth-STEP.ckpt` in
    `directory` (by default the Trainer's own), the model, its optimizers and schedulers become the grown ones before
    the next batch, `grown-STEP.ckpt` is saved, and the same `fit` goes on. `report` tells what was done, and every
    later checkpoint carries the growth's record and, where hyper-parameters hold a `config`, the grown one.

    Where Lightning lets nothing be changed within `fit` (strategies other than a single device and DDP), and with
    `then` "stop", the run is saved, `grown-STEP.ckpt` is grown from that file, and the run ends after this batch: `fit`
    returns, so that a script exits with 0, and `grown_checkpoint` says where to go on.

    A run that goes on from any of its checkpoints knows whether it has grown; from one after the growth, build the
    module with the config in it.

    Raises RequestError for options that contradict each other; in `fit` for a module whose parameters are not those of
    one transformers model, for other callbacks that hold a copy of it, and for a `monitor` that is not logged; what
    `ckptgrow.grow` raises.
    """

    def __init__(
        self,
        *,
        at_step: int | None = None,
        slope: float | Literal["auto"] | None = None,
        monitor: str = "val_loss",
        directory: str | Path | None = None,
        then: AfterGrowth = "go on",
        **growth: Any,
    ) -> None:
        self.growth = RunGrowth.checked(growth, then)
        self.moment = GrowthMoment.checked(at_step, slope, self.growth.asked)
        self.monitor = monitor
        self.report: GrowthResult | None = None
        self.grown_checkpoint: Path | None = None
        self._directory = None if directory is None else Path(directory)
        self._earlier: list[GrowthRecord] = []
        self._has_loaded_growth = False
        self._rewarmings: tuple[Rewarming, ...] = ()
        self._loaded_rises: list[dict[str, int]] | None = None

    @property
    def state_key(self) -> str:
        """Tells the callbacks of several growths apart."""
        return f"{type(self).__name__}{{{self.moment.at_step or self.moment.tau}, {self.growth.asked.name}}}"

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Looks for the model, and for copies of it, so that what cannot grow is told before it is trained."""
        model_of(pl_module)
        own = {id(one) for one in pl_module.modules()}
        for callback in _callbacks_of(trainer):
            held = [
                name for name, one in vars(callback).items() if isinstance(one, torch.nn.Module) and id(one) not in own
            ]
            if held:
                raise RequestError(
                    f"{type(callback).__name__} holds a model ({listing(held)}) that would not grow, expected no "
                    "averages of weights in callbacks; leave it out until the model has grown"
                )

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Goes on with the rise of the rates where the run goes on within it."""
        states = self._loaded_rises
        if states is None and self._has_loaded_growth:
            states = states_at(rewarm_of(self._earlier), trainer.global_step, len(trainer.optimizers))
        if states:
            self._rewarmings = gone_on(trainer.optimizers, states)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Whether the step that has ended is the moment."""
        if self.moment.stepped(trainer.global_step):
            self._reach(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Whether the slope now says so."""
        if self.moment.tau is None or trainer.sanity_checking:
            return
        if self.monitor not in trainer.callback_metrics:
            raise RequestError(
                f"⟦monitor {self.monitor}⟧: is not logged in validation, expected one of "
                f"{listing(trainer.callback_metrics) or 'nothing: log it in validation_step'}"
            )
        others = [one.moment for one in _callbacks_of(trainer) if isinstance(one, LightningGrowthCallback)]
        since = max(one.grown_at or 0 for one in others)
        if self.moment.validated(trainer.global_step, float(trainer.callback_metrics[self.monitor]), since):
            self._reach(trainer)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Grows where the moment has come, outside of validation, which trains nothing and keeps modes of its own."""
        if self.moment.is_due and not self._stops(trainer):
            self._grow(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The validations so far, and whether the moment has come; the number of growths before tells, beside the
        record in a checkpoint, whether its model has grown.
        """
        moment = self.moment
        counted = {"steps": moment.steps, "losses": moment.losses, "reached": moment.reached}
        has_begun = any(one.done for one in self._rewarmings)  # until then the record says it
        rises = states_of(self._rewarmings) if has_begun else None
        return {**counted, "num_growths": len(self._earlier) - self._has_loaded_growth, "rises": rises}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there."""
        moment = self.moment
        moment.steps, moment.losses = list(state_dict["steps"]), list(state_dict["losses"])
        moment.reached = state_dict["reached"]
        self._loaded_rises = state_dict.get("rises")
        self._has_loaded_growth = moment.reached is not None and len(self._earlier) > state_dict["num_growths"]
        moment.grown_at = moment.reached if self._has_loaded_growth else None

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the record of growths, and the config where hyper-parameters lack it, for growth and verification."""
        has_config = _holds_config(pl_module.hparams.get(CONFIG))
        if has_config and not self._earlier and self.report is None:
            return
        log = checkpoint.setdefault(GROWTH_KEY, {"version": __version__, "history": list(self._earlier)})
        if self.report is not None:
            log["history"].append(self.report.record)
            log["history"].sort(key=lambda record: record["step"][0] or 0)  # callbacks may stand in any order
        log |= {"rewarm": rewarm_of(log["history"]), "global_step": trainer.global_step}
        if not has_config:
            log[CONFIG] = model_of(pl_module).config.to_dict()

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keeps the record of earlier growths."""
        self._earlier = list(checkpoint.get(GROWTH_KEY, {}).get("history", ()))

    def _stops(self, trainer: lightning.Trainer) -> bool:
        goes_on = isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy)
        return self.growth.then == "stop" or not goes_on

    def _place(self, trainer: lightning.Trainer, name: str) -> Path:
        directory = self._directory or Path(trainer.default_root_dir)
        return directory / f"{name}-{self.moment.reached}.ckpt"

    def _reach(self, trainer: lightning.Trainer) -> None:
        """The moment has come; where the run cannot go on, it is saved, the file grown, and the run ended."""
        if self._stops(trainer):
            small, grown = self._place(trainer, "before-growth"), self._place(trainer, "grown")
            trainer.save_checkpoint(small)
            self.growth.on_disk(small, grown, is_first=trainer.is_global_zero)
            trainer.strategy.barrier()
            self.grown_checkpoint = grown
            trainer.should_stop = True

    def _grow(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        trainer.save_checkpoint(self._place(trainer, "before-growth"))
        model = model_of(pl_module)
        schedulers = [one.scheduler for one in trainer.lr_scheduler_configs]
        step, sha256 = trainer.global_step, fingerprint_of(pl_module.state_dict())
        grown = grow(model, trainer.optimizers, schedulers, **self.growth.options, global_step=step)
        self._rewarmings = become(model, trainer.optimizers, schedulers, grown)
        if isinstance(trainer.strategy, DDPStrategy):  # its wrapper knows the old parameters
            trainer.strategy.model = pl_module
            trainer.strategy.configure_ddp()
        _tell_config(pl_module, model.config)
        record: GrowthRecord = {**grown.report.record, "source_sha256": sha256}  # by the names in the module's files
        self.report, self.moment.grown_at = replace(grown.report, record=record), step
        self.grown_checkpoint = self._place(trainer, "grown")
        trainer.save_checkpoint(self.grown_checkpoint)


def _callbacks_of(trainer: lightning.Trainer) -> list[lightning.Callback]:
    return trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]  documented, but set by a part of it


def model_of(module: torch.nn.Module) -> PreTrainedModel:
    """The transformers model inside a LightningModule; raises RequestError unless all parameters are its own."""
    models = [one for one in module.modules() if isinstance(one, PreTrainedModel)]
    outer = models[0] if models else None
    own = set[int]() if outer is None else {id(one) for one in outer.parameters()}
    others = [name for name, one in module.named_parameters() if id(one) not in own]
    if outer is None or others:
        raise RequestError(
            f"{type(module).__name__} has {f'parameters of its own ({listing(others)})' if outer else 'no model'}, "
            "expected one transformers model that has all parameters"
        )
    return outer


def _holds_config(value: Any) -> bool:
    return isinstance(value, PreTrainedConfig) or (isinstance(value, Mapping) and "model_type" in value)


def _tell_config(module: lightning.LightningModule, config: PreTrainedConfig) -> None:
    """Puts the grown config where the module's hyper-parameters keep one."""
    held = module.hparams.get(CONFIG)
    if _holds_config(held):
        module.hparams[CONFIG] = config if isinstance(held, PreTrainedConfig) else config.to_dict()
