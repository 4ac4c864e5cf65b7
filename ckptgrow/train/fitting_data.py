"""What a run's settings must be for any machine: numbers in their ranges, and data that the model can read."""

from __future__ import annotations

from collections.abc import Mapping

from ckptgrow.errors import DataError, RequestError
from ckptgrow.ranges import RANGES, check
from ckptgrow.train.mixtures import Mixture
from ckptgrow.train.settings import TrainSettings, check_length

OF_COMMAND: Mapping[str, str] = {"eps": "adam_epsilon", "num_nodes": "nodes"}  # what its options call otherwise


def check_numbers(settings: TrainSettings) -> None:
    """Raises RequestError for a number that no training can have."""
    values = {OF_COMMAND.get(name, name): value for name, value in vars(settings).items() if name != "betas"}
    for name, value in (*values.items(), *zip(("adam_beta1", "adam_beta2"), settings.betas, strict=True)):
        if name in RANGES:
            check(name, value)


def check_data_fits(settings: TrainSettings, data: Mixture) -> None:
    """Raises DataError or RequestError for data that the model of `settings.config` cannot be trained on."""
    vocabulary = settings.config.get("vocab_size")
    if isinstance(vocabulary, int) and data.vocab_size > vocabulary:
        raise DataError(
            f"{data.meta}: has a vocabulary of {data.vocab_size}, expected at most the model's {vocabulary}; prepare "
            "the data with the model's tokenizer"
        )
    check_length(settings.seqlen, settings.config)
    data.training(settings.seqlen)
    for name, end in (("until_slope", settings.until_slope), ("until_loss", settings.until_loss)):
        if end is not None and not data.validated:
            raise RequestError(f"⟦{name} {end:g}⟧: {settings.data} has no validation tokens to see it")
    for one in data.validated:
        one.files.sequences("val", settings.seqlen)
