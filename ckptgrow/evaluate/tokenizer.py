"""Finds the tokenizer of a checkpoint: the one asked for, the one beside it, or the one that its data names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ckptgrow.data.pretrained_tokenizer import pretrained_tokenizer
from ckptgrow.errors import DataError, RequestError
from ckptgrow.evaluate.quiet import quiet

BYTES = "bytes"
SEPARATOR = 0  # the byte between documents: text has none
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that needs no file: a token's id is its byte in UTF-8; byte 0 begins and ends documents."""
    name = "<0x{:02X}>".format
    vocabulary = {name(byte): byte for byte in range(256)}
    backend = Tokenizer(BPE(vocabulary, [], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=name(SEPARATOR),
        eos_token=name(SEPARATOR),
        split_special_tokens=True,  # the text "<0x00>" is six bytes, not the separator
        clean_up_tokenization_spaces=False,
        name_or_path=BYTES,
    )


def find_tokenizer(
    checkpoint: Path, asked: str | None, others: Sequence[Path] = (), recorded: str | None = None
) -> str:
    """The name of a checkpoint's tokenizer: `asked`, or what its directory holds, what its run `recorded`, or what a
    meta.json near it or in `others` says.

    Raises RequestError where nothing says it.
    """
    if asked is not None:
        return asked
    home = checkpoint if checkpoint.is_dir() else checkpoint.parent
    if any((home / file).is_file() for file in TOKENIZER_FILES):
        return str(home)
    if recorded is not None and (Path(recorded).is_dir() or not Path(recorded).is_absolute()):
        return recorded
    for directory in (home, home.parent, *(other if other.is_dir() else other.parent for other in others)):
        named = _named_by(directory / "meta.json")
        if named is not None:
            return named
    raise RequestError(
        f"{checkpoint}: nothing says its tokenizer (no tokenizer.json beside it, no record of its run, no meta.json of "
        f"its data{'' if recorded is None else f'; {recorded} is no longer there'}); "
        "pass ⟦tokenizer NAME⟧, DIR or bytes"
    )


def load_tokenizer(name: str, where: str, num_embeddings: int) -> PreTrainedTokenizerBase:
    """Loads a tokenizer by its name or directory, or `bytes`, for a model with `num_embeddings` token embeddings.

    Raises RequestError where it cannot be loaded, or has more tokens than the model.
    """
    tokenizer = byte_tokenizer() if name == BYTES else _from_files(name)
    if tokenizer.vocab_size > num_embeddings:
        raise RequestError(
            f"{where}: ⟦tokenizer {name}⟧ has {tokenizer.vocab_size} tokens, expected at most the model's "
            f"{num_embeddings}; pass the one that the model was trained with"
        )
    return tokenizer


def read_meta(path: Path) -> Mapping[str, Any]:
    """Reads a data set's meta.json; raises DataError where it is not a JSON object."""
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}), expected what `ckptgrow data` wrote") from error
    if not isinstance(meta, dict):
        raise DataError(f"{path}: is a {type(meta).__name__}, expected a JSON object")
    return meta


def _named_by(meta: Path) -> str | None:
    if not meta.is_file():
        return None
    name = read_meta(meta).get("tokenizer")
    if not isinstance(name, str):
        return None
    # a directory as seen from here, from meta.json, or (it has moved since) its name beside meta.json
    places = (Path(name), meta.parent / name, meta.parent / Path(name).name)
    return next((str(place) for place in places if place.is_dir()), name)


def _from_files(name: str) -> PreTrainedTokenizerBase:
    try:
        with quiet():
            return pretrained_tokenizer(name)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RequestError(
            f"⟦tokenizer {name}⟧: cannot be loaded ({reason}), expected a tokenizer's directory, a name on the hub or "
            "in its cache, or bytes"
        ) from error
