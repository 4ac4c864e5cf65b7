"""One training run: puts settings, model and data together, trains, and says where the run ended."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_only

from ckptgrow.errors import ConfigError, RequestError, at, listing
from ckptgrow.families.registry import FAMILIES
from ckptgrow.formats.known_formats import read_checkpoint
from ckptgrow.planning.rates_by_size import lr_for_size
from ckptgrow.ranges import check
from ckptgrow.state.counting import num_without_embeddings
from ckptgrow.state.model import build_model
from ckptgrow.state.train_schedule import NEW_RISE
from ckptgrow.train.additions import NewEntries, new_in
from ckptgrow.train.adoption import Adopted, adopted
from ckptgrow.train.config_fields import check_fields
from ckptgrow.train.exporting import EXPORTED, export
from ckptgrow.train.freezing import freeze_old_layers
from ckptgrow.train.header import header
from ckptgrow.train.interim_results import interim_results
from ckptgrow.train.isolation import check_isolates
from ckptgrow.train.launching import processes_of
from ckptgrow.train.mixtures import Mixture
from ckptgrow.train.module import LanguageModel
from ckptgrow.train.monitor import Look, Shown
from ckptgrow.train.occupied import occupied
from ckptgrow.train.remarks import check_lengths, remarks
from ckptgrow.train.resuming import Resumed, resumed_from
from ckptgrow.train.rise_after_growth import rise_after_growth, rise_in_words
from ckptgrow.train.settings import OPTIMIZER_OPTIONS, RUN, TrainSettings, settings_for, with_fitting_length
from ckptgrow.train.sharding import check_cut
from ckptgrow.train.starting_checks import check_start
from ckptgrow.train.step_progress import Report
from ckptgrow.train.stopwatch import Stopwatch
from ckptgrow.train.train_recipes import RECIPES
from ckptgrow.train.trainer import Training

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Where a run ended; losses in nats. `lr` is the peak learning rate, `last_lr` that of the last step;
    `interrupted_by` is the signal that ended the run, None where nothing did; `slope_reached` the step at which its
    slope did, `loss_reached` its loss, None where that did not.
    `val_step` is the step after which `val_loss` was measured: validations are rarer than steps.
    """

    out: Path
    checkpoint: Path
    global_step: int
    tokens_seen: int
    loss: float | None
    val_loss: float | None
    lr: float
    last_lr: float
    interrupted_by: int | None
    slope_reached: int | None = None
    loss_reached: int | None = None
    val_step: int | None = None


def is_main_process() -> bool:
    """Whether this process is the one of its run that prints and writes, by the launcher's environment variables."""
    return getattr(rank_zero_only, "rank", 0) in (0, None)


def train(
    given: Mapping[str, Any],
    report: Report | None = None,
    tell: Tell | None = None,
    look: Look | None = None,
) -> Trained:
    """Trains a model.

    `given`: fields of `TrainSettings`; a run that goes on (`resume`) takes the others from its checkpoint. `report` is
    called after every step; `tell` with each remark on what the run will do that its user may not expect; `look` with
    the model, before the first step and after each. An interrupted run returns too, saved after the step that it was
    in.

    Raises RequestError, ConfigError, DataError or CheckpointError for wrong settings or files, before anything is
    written. Later it raises DivergedError for a loss that is not finite, and CheckpointError for a full disk.
    """
    devices, nodes = processes_of(os.environ, given.get("devices"), given.get("num_nodes"))
    given = {**given, "devices": devices, "num_nodes": nodes}
    with occupied(Path(given["out"])) if is_main_process() else nullcontext():
        return _train(given, report, tell, look)


def _train(given: Mapping[str, Any], report: Report | None, tell: Tell | None, look: Look | None) -> Trained:
    resumed, config = _resumed(given)
    stored = {} if resumed is None else resumed.arguments.get(RUN, {})
    settings = _settings(given, stored, resumed, config)
    data = Mixture.open(settings.data)
    check_start(settings, data, resumed)
    check_lengths(settings, given, 0 if resumed is None else resumed.step)
    rise = None if resumed is None else rise_after_growth(resumed, settings)
    if resumed is not None and rise is not None:
        resumed.growth["rewarm"] = rise
    lightning.seed_everything(settings.seed, verbose=False)
    model = _model(settings, resumed).train()
    new = _new_entries(model, settings, resumed)
    free = freeze_old_layers(model, new) if settings.freeze == "old-layers" else ()
    if tell is not None and is_main_process():
        for sentence in remarks(settings, stored, {} if resumed is None else resumed.growth):
            tell(sentence)
        if rise is not None:
            tell(rise_in_words(rise))
        if free:
            tell(f"frozen: all but {len(free)} parameters of new layers ({listing(free, limit=1)})")
    if settings.documents == "isolated":
        check_isolates(model)
    if settings.tensor_parallel > 1:
        check_cut(model, settings.tensor_parallel)
    lr = settings.lr if settings.lr is not None else lr_for_size(num_without_embeddings(model))
    module = LanguageModel(_readied(model, settings), settings, lr, data, resumed, new)
    clock = Stopwatch()
    shown = None if look is None else Shown(look)
    interim = interim_results(settings, data, model, clock, tell or _silent)
    training = Training(settings, data, module, report, clock, [one for one in (shown, interim) if one is not None])
    if tell is not None and is_main_process():
        for sentence in header(settings, data, module, training.trainer.strategy.root_device):
            tell(sentence)
    interrupted_by = training.fit()
    if settings.export and interrupted_by is None and is_main_process():
        done = export(training.checkpoints.last, settings.out / EXPORTED, data.tokenizer)
        if tell is not None:
            tell(done)
    return _trained(training, lr, interrupted_by)


def _silent(sentence: str) -> None:
    pass


def _trained(training: Training, lr: float, interrupted_by: int | None) -> Trained:
    """Where the run ended."""
    monitor, module = training.monitor, training.module
    return Trained(
        out=training.settings.out,
        checkpoint=training.checkpoints.last,
        global_step=training.trainer.global_step,
        tokens_seen=module.tokens_seen,
        loss=monitor.loss,
        val_loss=monitor.val_loss,
        lr=lr,
        last_lr=monitor.lr,
        interrupted_by=interrupted_by,
        slope_reached=training.slope_stop.reached,
        loss_reached=training.slope_stop.loss_reached,
        val_step=monitor.val_step,
    )


def _settings(
    given: Mapping[str, Any], stored: Mapping[str, Any], resumed: Resumed | None, config: Mapping[str, Any] | None
) -> TrainSettings:
    """What was asked for, and what the checkpoint says besides: its run's settings (`stored`), its model's config."""
    settings = settings_for(given, stored)
    if resumed is not None:
        _check_optimizer_options(given, resumed)
        settings = replace(settings, config=_agreed_config(settings, config))
        if settings.lr is None and resumed.lr:
            settings = replace(settings, lr=resumed.lr)
    elif settings.init_from is not None:
        found = _begun_from(settings.init_from, settings)
        settings = replace(settings, config=_agreed_config(settings, found.state.config))
    settings = replace(settings, config=_with_dropout(settings, is_new=resumed is None and settings.init_from is None))
    return with_fitting_length(settings, settings.config, {*given, *stored})


def _begun_from(path: Path, settings: TrainSettings) -> Adopted:
    """The checkpoint whose weights a new run begins with."""
    return adopted(read_checkpoint(path), settings.config, dialect=settings.dialect, with_optimizer=False)


def _with_dropout(settings: TrainSettings, *, is_new: bool) -> dict[str, Any]:
    """The config with the dropout that was asked for; a new model's gets its recipe's where it says none."""
    config, asked = settings.config, settings.dropout
    check("dropout", asked)
    family = FAMILIES.get(str(config.get("model_type")))
    fields = () if family is None else family.dropout
    usual = RECIPES[settings.recipe].dropout if is_new else None
    chosen = {name: usual for name in fields if name not in config and usual is not None}
    return {**config, **chosen, **({} if asked is None else dict.fromkeys(fields, asked))}


def _model(settings: TrainSettings, resumed: Resumed | None) -> torch.nn.Module:
    """The model at the start of the run: with the weights of another trainer's checkpoint, if it begins with these."""
    if resumed is not None and resumed.adopted is not None:
        return resumed.adopted.model()
    if settings.init_from is not None:
        return _begun_from(settings.init_from, settings).model()
    with at(settings.resume or "⟦config⟧"):
        if resumed is None:
            check_fields(settings.config)
        return build_model(settings.config, torch.float32)


def _readied(model: torch.nn.Module, settings: TrainSettings) -> torch.nn.Module:
    """The same model, to be run as it was asked for."""
    if settings.gradient_checkpointing:
        _checkpoint_gradients(model)
    if settings.compile:
        model.compile()
    return model


def _checkpoint_gradients(model: torch.nn.Module) -> None:
    """Keeps the activations between blocks alone, and computes those inside again: memory for a third more time."""
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise RequestError(f"⟦gradient_checkpointing⟧: transformers' {type(model).__name__} has none; leave it out")
    enable: Any = getattr(model, "activation_checkpointing_enable", None)  # its name in later transformers
    if enable is None:
        enable = model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _new_entries(model: torch.nn.Module, settings: TrainSettings, resumed: Resumed | None) -> Mapping[str, NewEntries]:
    """What the last growth added, where this run treats it otherwise than the rest."""
    asked = {
        "⟦rewarm_new⟧": resumed is not None and NEW_RISE in resumed.growth,
        f"⟦freeze {settings.freeze}⟧": settings.freeze != "none",
    }
    options = [option for option, is_asked in asked.items() if is_asked]
    if not options:
        return {}
    if resumed is None:
        raise RequestError(f"{options[0]}: is for a run that goes on, expected ⟦resume CKPT⟧ beside it")
    if settings.strategy == "fsdp":
        raise RequestError(f"{options[0]}: needs whole parameters, expected ⟦strategy ddp⟧ or auto")
    with at(f"{options[0]}: {resumed.path}"):
        return new_in(model, resumed.growth.get("history", ()))


def _resumed(given: Mapping[str, Any]) -> tuple[Resumed | None, Mapping[str, Any] | None]:
    path = given.get("resume")
    if path is not None:
        for name in ("init_from", "recipe"):
            if given.get(name) is not None:
                raise RequestError(f"⟦{name}⟧: is for a new run, expected it without ⟦resume⟧")
        return resumed_from(path, given)
    asked = [f"⟦{name}⟧" for name in ("reset", "step", "rewarm", "rewarm_new", "param_order") if given.get(name)]
    if asked:
        raise RequestError(f"{asked[0]}: is for a run that goes on, expected ⟦resume CKPT⟧ beside it")
    return None, None


def _check_optimizer_options(given: Mapping[str, Any], resumed: Resumed) -> None:
    had = resumed.arguments.get(RUN, {}).get("optimizer", "adamw")
    if resumed.optimizer is not None and given.get("optimizer", had) != had:
        raise RequestError(
            f"⟦optimizer {given['optimizer']}⟧: {resumed.path} has the state of {had}, expected that; leave it out, or "
            "add ⟦reset optimizer⟧"
        )
    asked = [option for name, option in OPTIMIZER_OPTIONS.items() if name in given]
    if asked and resumed.optimizer is not None:
        raise RequestError(
            f"{asked[0]}: the groups of {resumed.path} have their own, expected none; leave it out, or add "
            "⟦reset optimizer⟧"
        )


def _agreed_config(settings: TrainSettings, stored: Mapping[str, Any] | None) -> dict[str, Any]:
    if not settings.config:
        if not stored:
            raise ConfigError(
                f"{settings.resume}: has no config, expected hyper_parameters['config']; pass ⟦config FILE⟧"
            )
        return dict(stored)
    known = dict(stored or {})
    different = [key for key, value in settings.config.items() if key in known and known[key] != value]
    if different:
        name = sorted(different)[0]
        raise ConfigError(
            f"⟦config⟧: {name} is {settings.config[name]!r}, expected {known[name]!r} as in "
            f"{settings.resume or settings.init_from}; leave "
            "⟦config⟧ out to go on with the checkpoint's"
        )
    return {**known, **settings.config}
