"""What a run's settings must be for any machine: numbers in their ranges, and data that the model can read."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ckptgrow.errors import DataError, RequestError
from ckptgrow.train.mixtures import Mixture
from ckptgrow.train.settings import TrainSettings, positions_of


def check_numbers(settings: TrainSettings) -> None:
    """Raises RequestError for a number that no training can have."""
    for name, value, expected, is_right in _ranges(settings):
        if not is_right or not math.isfinite(value):
            raise RequestError(f"⟦{name} {value:g}⟧: expected {expected}")


def _ranges(settings: TrainSettings) -> Iterator[tuple[str, float, str, bool]]:
    if settings.lr is not None:
        yield "lr", settings.lr, "a learning rate from 0 on", settings.lr >= 0
    yield "weight_decay", settings.weight_decay, "a number from 0 on", settings.weight_decay >= 0
    yield "adam_epsilon", settings.eps, "a number from 0 on", settings.eps >= 0
    yield "grad_clip", settings.grad_clip, "a gradient's norm, or 0 for none", settings.grad_clip >= 0
    yield "min_lr_ratio", settings.min_lr_ratio, "a share from 0 to 1", 0 <= settings.min_lr_ratio <= 1
    yield "ema", settings.ema, "a decay from 0 on (for none), below 1", 0 <= settings.ema < 1
    for number, beta in enumerate(settings.betas, start=1):
        yield f"adam_beta{number}", beta, "a decay from 0 on, below 1", 0 <= beta < 1
    for name in ("warmup_steps", "save_minutes", "keep"):
        yield name, getattr(settings, name), "a number from 0 on", getattr(settings, name) >= 0
    for name in ("train_steps", "batch_size", "grad_accum", "save_every", "val_every", "val_batches", "log_every"):
        yield name, getattr(settings, name), "at least 1", getattr(settings, name) >= 1
    yield "seqlen", settings.seqlen, "at least 2 tokens", settings.seqlen >= 2


def check_data_fits(settings: TrainSettings, data: Mixture) -> None:
    """Raises DataError or RequestError for data that the model of `settings.config` cannot be trained on."""
    vocabulary = settings.config.get("vocab_size")
    if isinstance(vocabulary, int) and data.vocab_size > vocabulary:
        raise DataError(
            f"{data.meta}: has a vocabulary of {data.vocab_size}, expected at most the model's {vocabulary}; prepare "
            "the data with the model's tokenizer"
        )
    positions = positions_of(settings.config)
    if positions is not None and settings.seqlen > positions:
        raise RequestError(f"⟦seqlen {settings.seqlen}⟧: expected at most the model's {positions} positions")
    data.training(settings.seqlen)
    for name, end in (("until_slope", settings.until_slope), ("until_loss", settings.until_loss)):
        if end is not None and not data.validated:
            raise RequestError(f"⟦{name} {end:g}⟧: {settings.data} has no validation tokens to see it")
    for one in data.validated:
        one.files.sequences("val", settings.seqlen)
