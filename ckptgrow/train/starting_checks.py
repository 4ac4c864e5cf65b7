"""What a run finds where it begins: its machine, data, the checkpoint that it goes on from, a place for its files."""

from __future__ import annotations

from pathlib import Path

import torch

from ckptgrow.errors import DataError, RequestError
from ckptgrow.state.run_data import DATA, SHA256, VOCAB_SIZE
from ckptgrow.train.fitting_data import check_data_fits, check_numbers
from ckptgrow.train.mixtures import Mixture
from ckptgrow.train.module import SCALED_PRECISION
from ckptgrow.train.resuming import Resumed
from ckptgrow.train.run_directory import CHECKPOINTS, LAST, METRICS
from ckptgrow.train.settings import RUN, TrainSettings

SHARDED_PRECISIONS = ("32", "bf16-mixed", "bf16-true")  # that Lightning's strategy has


def check_start(settings: TrainSettings, data: Mixture, resumed: Resumed | None) -> None:
    """Raises RequestError or DataError where the run cannot begin as it was asked for, before anything is written."""
    check_numbers(settings)
    _check_machine(settings)
    check_data_fits(settings, data)
    if resumed is not None:
        _check_own(settings)
        _check_same_data(data, resumed, settings)
        if resumed.step >= settings.last_step:
            option = "train_steps" if settings.last_step == settings.train_steps else "stop_at"
            raise RequestError(
                f"⟦{option} {settings.last_step}⟧: {resumed.path} is at step {resumed.step}, expected more than "
                f"that; raise ⟦{option}⟧"
            )
        if settings.until_slope is not None and resumed.slope_reached is not None:
            raise RequestError(
                f"⟦until_slope {settings.until_slope:g}⟧: the slope of {resumed.path} has risen past it at step "
                f"{resumed.slope_reached} already, expected a run that has not ended; grow it, or leave the option out"
            )
        if settings.until_loss is not None and resumed.loss_reached is not None:
            raise RequestError(
                f"⟦until_loss {settings.until_loss:g}⟧: {resumed.path} has ended at a loss that was low enough, at "
                f"step {resumed.loss_reached}, expected a run that has not; leave the option out to go on"
            )
    elif (settings.out / METRICS).exists() or (settings.out / CHECKPOINTS).exists():
        raise RequestError(
            f"{settings.out}: holds a run already, expected none; choose another, or ⟦resume⟧ from its checkpoints"
        )


def _check_own(settings: TrainSettings) -> None:
    """Raises RequestError where a run would go on over the checkpoints of another."""
    kept, resumed = (settings.out / CHECKPOINTS).resolve(), Path(str(settings.resume)).resolve()
    if (kept / LAST).exists() and not resumed.is_relative_to(kept):
        raise RequestError(
            f"{settings.out}: holds a run already, and ⟦resume {settings.resume}⟧ is none of its checkpoints, expected "
            "one of them, or another directory"
        )


def _check_same_data(data: Mixture, resumed: Resumed, settings: TrainSettings) -> None:
    stored = resumed.arguments.get(DATA) or {}
    if stored.get(VOCAB_SIZE, data.vocab_size) != data.vocab_size:
        raise DataError(
            f"{data.meta}: has a vocabulary of {data.vocab_size}, expected {stored[VOCAB_SIZE]}, with which "
            f"{resumed.path} was trained"
        )
    if "data" not in settings.reset and stored.get(SHA256, data.sha256) != data.sha256:
        where = data.meta if len(data.sources) == 1 else f"⟦data {settings.data}⟧"
        raise DataError(
            f"{where}: is of other training data than {resumed.path} was trained on, expected the same for its place "
            "in them to mean anything; pass ⟦reset data⟧ to begin these at their beginning"
        )
    if "data" not in settings.reset and resumed.place.position:
        old = resumed.arguments.get(RUN, {})
        for name in ("seqlen", "seed"):
            if old.get(name, getattr(settings, name)) != getattr(settings, name):
                raise RequestError(
                    f"⟦{name} {getattr(settings, name)}⟧: {resumed.path} has seen its data in sequences of "
                    f"{old['seqlen']} in the order of seed {old['seed']}, expected the same; pass ⟦reset data⟧ to "
                    "begin them anew"
                )


def _check_machine(settings: TrainSettings) -> None:
    available = torch.cuda.device_count()
    if settings.accelerator == "cuda" and not available:
        raise RequestError(
            f"⟦accelerator cuda⟧: torch sees no GPUs on this machine, expected ⟦devices {settings.devices}⟧; use cpu "
            "or auto"
        )
    on_cuda = settings.accelerator == "cuda" or (settings.accelerator == "auto" and available > 0)
    if on_cuda and settings.devices > available:
        raise RequestError(f"⟦devices {settings.devices}⟧: this machine has {available} GPUs, expected at most that")
    if not on_cuda and settings.precision == SCALED_PRECISION:
        raise RequestError(f"⟦precision {SCALED_PRECISION}⟧: needs a CUDA GPU, expected bf16-mixed or 32 on a CPU")
    if settings.ema and settings.precision == "bf16-true":
        raise RequestError(
            "⟦ema⟧: bfloat16 cannot hold an average that moves so slowly, expected ⟦precision bf16-mixed⟧ or 32"
        )
    _check_parts(settings)
    if settings.ema and settings.strategy == "fsdp":
        raise RequestError("⟦ema⟧: needs whole parameters, expected ⟦strategy ddp⟧ or auto")
    if settings.optimizer == "muon" and settings.strategy == "fsdp":
        raise RequestError("⟦optimizer muon⟧: needs whole matrices, expected ⟦strategy ddp⟧ or auto")


def _check_parts(settings: TrainSettings) -> None:
    if settings.strategy == "fsdp" and settings.precision not in SHARDED_PRECISIONS:
        raise RequestError(
            f"⟦precision {settings.precision}⟧: expected {' or '.join(SHARDED_PRECISIONS)} with ⟦strategy fsdp⟧"
        )
    parts = settings.tensor_parallel
    if parts > 1 and settings.strategy != "fsdp":
        raise RequestError(f"⟦tensor_parallel {parts}⟧: expected ⟦strategy fsdp⟧ beside it")
    if settings.num_devices % parts:
        raise RequestError(
            f"⟦tensor_parallel {parts}⟧: there are {settings.num_devices} devices, expected a divisor of that"
        )
    if parts > 1 and settings.dropout:
        raise RequestError(f"⟦tensor_parallel {parts}⟧: parts of a block would draw the same dropout, expected none")
