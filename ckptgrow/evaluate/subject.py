"""The checkpoint that is evaluated: a real transformers model and its tokenizer, from a checkpoint of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ckptgrow.choices import EvalDtype, words_of
from ckptgrow.data.tokenizers import BYTES, ByteTokenizer, Tokenizer, of_transformers
from ckptgrow.errors import RequestError, listing
from ckptgrow.evaluate.tokenizer import find_tokenizer, load_tokenizer
from ckptgrow.formats.known_formats import read_checkpoint
from ckptgrow.state.averaged_weights import averaged
from ckptgrow.state.model import load_model
from ckptgrow.state.opening import open_state
from ckptgrow.state.run_data import run_data_of

DTYPES = {name: getattr(torch, name) for name in words_of(EvalDtype)}
CONTEXT_FIELDS = ("n_positions", "max_position_embeddings", "n_ctx")  # where configs say it; lm-eval's order


@dataclass(frozen=True)
class Subject:
    """A model to evaluate, in evaluation mode, with its tokenizer."""

    path: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    tokenizer_name: str

    @property
    def max_length(self) -> int | None:
        """The longest sequence in tokens; None where the config does not say it."""
        config = self.model.config
        return next((getattr(config, name) for name in CONTEXT_FIELDS if hasattr(config, name)), None)

    @cached_property
    def encoder(self) -> Tokenizer:
        """The tokenizer as the preparation of data uses it: it gives the tokens of a text alone."""
        return ByteTokenizer() if self.tokenizer_name == BYTES else of_transformers(self.tokenizer)

    @property
    def num_embeddings(self) -> int:
        """The number of token ids for which the model has embeddings."""
        return num_embeddings_of(self.model)


def num_embeddings_of(model: PreTrainedModel) -> int:
    """The number of token ids for which a model has embeddings."""
    return cast(torch.nn.Embedding, model.get_input_embeddings()).num_embeddings


def tokenizer_of(path: Path, asked: str | None) -> str:
    """The name of the tokenizer that a checkpoint is read with; raises RequestError where nothing tells it."""
    recorded = None if asked is not None else run_data_of(read_checkpoint(path)).tokenizer
    return find_tokenizer(path, asked, recorded=recorded)


def validation_of(path: Path) -> Path:
    """The validation tokens of the run that a checkpoint is of; raises RequestError where none are found."""
    data = run_data_of(read_checkpoint(path))
    found = data.validation()
    if found is None:
        told = "nothing says which data its run had" if data.directory is None else f"{data.directory} has no val.bin"
        if data.sources:
            told = f"its run had a mixture of {listing([str(one) for one in data.sources])}"
        raise RequestError(f"{path}: {told}, expected the file to evaluate; name it")
    return found


@dataclass(frozen=True)
class Taken:
    """What a model is made of: the checkpoint's own config, or a transformers config.json where it has none; its
    weights, or their average; `dialect` is its trainer's, where the names alone do not tell.
    """

    config: Path | None = None
    is_averaged: bool = False
    dialect: str | None = None


def open_subject(
    path: Path,
    *,
    tokenizer: str | None,
    dtype: str,
    device: torch.device,
    taken: Taken = Taken(),
    others: Sequence[Path] = (),
) -> Subject:
    """Reads a checkpoint of any kind and builds its model, in evaluation mode, in `dtype` on `device`.

    `taken`: what of the checkpoint; `others`: files or directories beside which a meta.json may name the tokenizer.
    Raises a CkptgrowError where the checkpoint cannot be read or its tokenizer is not known.
    """
    if dtype not in DTYPES:
        raise RequestError(f"⟦dtype {dtype}⟧: expected {', '.join(DTYPES)}")
    state = open_state(path, config=taken.config, dialect=taken.dialect)
    if taken.is_averaged:
        state = averaged(state)
    name = find_tokenizer(path, tokenizer, others, run_data_of(state.checkpoint).tokenizer)
    num_embeddings = state.architecture.sizes["vocab"]
    loaded = load_tokenizer(name, str(path), num_embeddings)
    model = load_model(state.checkpoint, state.claim, state.config, DTYPES[dtype], str(device))
    return Subject(path, model, loaded, name)
