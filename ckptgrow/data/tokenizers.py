"""Tokenizers by name: any Hugging Face one, `bytes`, or a byte-level BPE trained on the input."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ckptgrow.errors import DataError

BYTES = "bytes"
END_OF_TEXT = "<|endoftext|>"
Ids = NDArray[np.integer[Any]]


class Tokenizer(Protocol):
    """Text to ids; `separator` ends every document."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        ...

    @property
    def separator(self) -> int:
        """The id that stands after every document."""
        ...

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, without special tokens; any integer dtype."""
        ...


@dataclass(frozen=True)
class ByteTokenizer:
    """A token is a byte of UTF-8; documents end with byte 0, which text does not contain."""

    vocab_size: int = 256
    separator: int = 0

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """See Tokenizer."""
        return [np.frombuffer(text.encode("utf-8"), dtype=np.uint8) for text in texts]


@dataclass(frozen=True)
class FastTokenizer:
    """The `tokenizers` object inside a fast Hugging Face tokenizer: it pickles, and workers need no transformers."""

    tokenizer: Any
    vocab_size: int
    separator: int

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """See Tokenizer."""
        encoded = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, dtype=np.uint32) for one in encoded]


@dataclass(frozen=True)
class SlowTokenizer:
    """A Hugging Face tokenizer written in Python."""

    tokenizer: Any
    vocab_size: int
    separator: int

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """See Tokenizer."""
        encoded = self.tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
        return [np.array(ids, dtype=np.uint32) for ids in encoded["input_ids"]]


def load(name: str) -> Tokenizer:
    """`bytes`, a directory with a tokenizer, or a name on the hub or in its cache.

    Raises DataError where there is none, or none with a token that can end documents.
    """
    if name == BYTES:
        return ByteTokenizer()
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().split("\n")[0][:120]
        raise DataError(f"--tokenizer {name}: cannot be loaded ({reason}); give a directory, or bytes") from error
    candidates = (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id)
    separator = next((one for one in candidates if one is not None), None)
    if separator is None:
        raise DataError(f"--tokenizer {name}: has no eos, sep or bos token, expected one that can end documents")
    if not tokenizer.is_fast:
        return SlowTokenizer(tokenizer, len(tokenizer), separator)
    fast = tokenizer.backend_tokenizer
    fast.no_truncation()
    fast.no_padding()
    return FastTokenizer(fast, len(tokenizer), separator)


def train(texts: Iterable[str], vocab_size: int, directory: Path) -> str:
    """Trains a byte-level BPE and saves it as a Hugging Face tokenizer; returns its directory's name.

    Source: Sennrich, Haddow & Birch, "Neural Machine Translation of Rare Words with Subword Units", arXiv 1508.07909.
    """
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    fast = Fast(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=fast, eos_token=END_OF_TEXT).save_pretrained(directory)
    return str(directory)
